#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/bfloat16.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/safetensors.h"
#include "model/checkpoint/json_fields.h"

namespace salamander {
namespace {

using Tensors = absl::Span<const NamedTensor>;

int64_t StoredBytes(const NamedTensor& tensor, SafetensorsPrecision precision) {
  return tensor.view.size() * (precision == SafetensorsPrecision::kFloat32 ? 4 : 2);
}

// The tensors of each file: as many as fit, at least one.
std::vector<Tensors> PlanShards(Tensors tensors, const SafetensorsWriteOptions& options) {
  std::vector<Tensors> shards;
  size_t begin = 0;
  int64_t bytes = 0;
  for (size_t index = 0; index < tensors.size(); ++index) {
    const int64_t more = StoredBytes(tensors[index], options.precision);
    if (index > begin && bytes + more > options.max_shard_bytes) {
      shards.push_back(tensors.subspan(begin, index - begin));
      begin = index;
      bytes = 0;
    }
    bytes += more;
  }
  shards.push_back(tensors.subspan(begin));
  return shards;
}

// The length and JSON of a file's header, padded with spaces to 8 bytes as the format asks.
std::string HeaderBytes(Tensors tensors, SafetensorsPrecision precision) {
  Json json = Json::object();
  json["__metadata__"] = {{"format", "pt"}};  // transformers refuses a file without it
  int64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    Json shape = Json::array();
    for (int axis = 0; axis < tensor.view.rank(); ++axis) shape.push_back(tensor.view.dim(axis));
    const int64_t end = offset + StoredBytes(tensor, precision);
    json[tensor.name] = {{"dtype", precision == SafetensorsPrecision::kFloat32 ? "F32" : "BF16"},
                         {"shape", std::move(shape)},
                         {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes;
  for (int byte = 0; byte < 8; ++byte) {
    bytes.push_back(static_cast<char>((text.size() >> (8 * byte)) & 0xFFU));
  }
  return bytes + text;
}

template <typename Element>
absl::Status WriteElements(const Element* values, int64_t size, SafetensorsPrecision precision,
                           OutputFile& file) {
  constexpr int64_t kPiece = 1 << 18;
  std::vector<float> wide;
  std::vector<uint16_t> narrow;
  for (int64_t begin = 0; begin < size; begin += kPiece) {
    const Element* const first = values + begin;
    const Element* const last = first + std::min(kPiece, size - begin);
    if (precision == SafetensorsPrecision::kFloat32) {
      wide.assign(first, last);
      RETURN_IF_ERROR(file.Write(wide.data(), wide.size() * sizeof(float)));
    } else {
      narrow.clear();
      std::transform(first, last, std::back_inserter(narrow),
                     [](Element value) { return Bfloat16OfFloat(static_cast<float>(value)); });
      RETURN_IF_ERROR(file.Write(narrow.data(), narrow.size() * sizeof(uint16_t)));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteShard(const std::string& path, Tensors tensors, SafetensorsPrecision precision) {
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  const std::string header = HeaderBytes(tensors, precision);
  RETURN_IF_ERROR(file.Write(header.data(), header.size()));
  for (const NamedTensor& tensor : tensors) {
    if (tensor.view.dtype() == DType::kFloat64) {
      RETURN_IF_ERROR(
          WriteElements(tensor.view.data<double>(), tensor.view.size(), precision, file));
    } else {
      RETURN_IF_ERROR(
          WriteElements(tensor.view.data<float>(), tensor.view.size(), precision, file));
    }
  }
  return file.Close();
}

}  // namespace

absl::Status WriteSafetensorsFolder(const std::string& directory, Tensors tensors,
                                    const SafetensorsWriteOptions& options) {
  const std::vector<Tensors> shards = PlanShards(tensors, options);
  if (shards.size() == 1) {
    return WriteShard(absl::StrCat(directory, "/model.safetensors"), tensors, options.precision);
  }
  Json weight_map = Json::object();
  int64_t total_bytes = 0;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, shards.size());
    RETURN_IF_ERROR(
        WriteShard(absl::StrCat(directory, "/", name), shards[shard], options.precision));
    for (const NamedTensor& tensor : shards[shard]) {
      weight_map[tensor.name] = name;
      total_bytes += StoredBytes(tensor, options.precision);
    }
  }
  const Json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}};
  return WriteFileBytes(absl::StrCat(directory, "/model.safetensors.index.json"),
                        index.dump(2) + "\n");
}

}  // namespace salamander
