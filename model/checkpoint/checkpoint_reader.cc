#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <dirent.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "data/storage/atomic_path.h"
#include "data/storage/checksum.h"
#include "data/storage/file_bytes.h"
#include "data/storage/hdf5_file.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/manifest.h"

namespace salamander {
namespace {

// A manifest has a few hundred bytes a tensor; texts are configs and tokenizers.
constexpr int64_t kLargestText = int64_t{256} << 20;

constexpr char kStepPrefix[] = "step-";

std::string ShapeText(const Checkpoint::Tensor& tensor) {
  return absl::StrCat(Name(tensor.dtype), "[", absl::StrJoin(tensor.shape, ", "), "]");
}

absl::Status CheckShape(const Checkpoint::Tensor& tensor, DType dtype,
                        absl::Span<const int64_t> shape) {
  if (tensor.dtype == dtype && absl::MakeConstSpan(tensor.shape) == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("holds ", ShapeText(tensor), "; expected ",
                   ShapeText({dtype, std::vector<int64_t>(shape.begin(), shape.end()), {}}),
                   "; the checkpoint is another model's"));
}

// What two runs of rows or columns share.
struct Run {
  int64_t begin = 0;
  int64_t end = 0;
};
Run Shared(int64_t begin, int64_t count, int64_t other_begin, int64_t other_count) {
  return {std::max(begin, other_begin), std::min(begin + count, other_begin + other_count)};
}

// The step of "step-00001200", or -1.
int64_t StepOf(absl::string_view name) {
  int64_t step = -1;
  if (!absl::ConsumePrefix(&name, kStepPrefix) || !absl::SimpleAtoi(name, &step)) return -1;
  return step;
}

}  // namespace

// Opening a file takes longer than reading a small tensor of it.
class Checkpoint::OpenShards {
 public:
  absl::StatusOr<const Hdf5File*> Open(const std::string& path) {
    const auto found = files_.find(path);
    if (found != files_.end()) return &found->second;
    ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::OpenForReading(path));
    return &files_.emplace(path, std::move(file)).first->second;
  }

 private:
  std::map<std::string, Hdf5File> files_;
};

Checkpoint::Checkpoint(std::string path)
    : path_(std::move(path)), shards_(std::make_shared<OpenShards>()) {}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& path) {
  Checkpoint checkpoint(path);
  const std::string manifest_path = absl::StrCat(path, "/manifest.json");
  auto text = ReadFileBytes(manifest_path, kLargestText);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat(
        path,
        ": there is no manifest.json, so this is no checkpoint; expected a directory that import, "
        "convert or train wrote"));
  }
  RETURN_IF_ERROR(text.status());
  auto manifest = ParseManifest(*text);
  RETURN_IF_ERROR(Annotate(manifest.status(), manifest_path));
  checkpoint.tensors_ = std::move(manifest->tensors);
  checkpoint.shard_bytes_ = std::move(manifest->shard_bytes);
  checkpoint.metadata_ = std::move(manifest->metadata);
  RETURN_IF_ERROR(checkpoint.CheckShards());
  return checkpoint;
}

absl::Status Checkpoint::CheckShards() const {
  for (const auto& [name, bytes] : shard_bytes_) {
    const std::string path = absl::StrCat(path_, "/", name);
    const auto found = FileSize(path);
    if (absl::IsNotFound(found.status())) {
      return absl::DataLossError(
          absl::StrCat(path, ": the shard is missing; copy it back or use another checkpoint"));
    }
    RETURN_IF_ERROR(found.status());
    if (*found != bytes) {
      return absl::DataLossError(absl::StrCat(path, ": ", *found, " bytes; the manifest says ",
                                              bytes, "; copy it again or use another checkpoint"));
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> Checkpoint::MetadataNames() const {
  std::vector<std::string> names;
  for (const auto& [name, checksum] : metadata_) names.push_back(name);
  return names;
}

absl::StatusOr<std::string> Checkpoint::Metadata(const std::string& name) const {
  const auto found = metadata_.find(name);
  if (found == metadata_.end()) {
    return absl::NotFoundError(absl::StrCat(
        path_, ": it holds no ", name, "; it was written by another command than was expected"));
  }
  const std::string path = absl::StrCat(path_, "/metadata/", name);
  ASSIGN_OR_RETURN(std::string text, ReadFileBytes(path, kLargestText));
  if (ChecksumText(ChecksumOf(text.data(), text.size())) != found->second) {
    return absl::DataLossError(
        absl::StrCat(path, ": the text is damaged (checksum mismatch); use another checkpoint"));
  }
  return text;
}

absl::Status Checkpoint::Read(const std::string& name, const TensorView& destination) const {
  std::vector<int64_t> shape;
  for (int axis = 0; axis < destination.rank(); ++axis) shape.push_back(destination.dim(axis));
  return ReadPart(name, shape, WholeOf(shape), destination);
}

absl::Status Checkpoint::ReadPart(const std::string& name, absl::Span<const int64_t> shape,
                                  const Rectangle& part, const TensorView& destination) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    return absl::NotFoundError(
        absl::StrCat(path_, ": it holds no tensor ", name, "; the checkpoint is another model's"));
  const std::string where = absl::StrCat(path_, ": tensor ", name);
  const Tensor& tensor = found->second;
  RETURN_IF_ERROR(Annotate(CheckShape(tensor, destination.dtype(), shape), where));
  SALAMANDER_CHECK(destination.size() == part.rows * part.columns) << destination.ShapeString();
  for (const Piece& piece : tensor.pieces)
    RETURN_IF_ERROR(Annotate(ReadPiece(tensor, piece, part, destination), where));
  return absl::OkStatus();
}

// What piece and part share. Blocks of the part's width go where they belong at once, others
// through memory of their own.
absl::Status Checkpoint::ReadPiece(const Tensor& tensor, const Piece& piece, const Rectangle& part,
                                   const TensorView& destination) const {
  const Rectangle& place = piece.place;
  const Run rows = Shared(place.row_begin, place.rows, part.row_begin, part.rows);
  const Run columns = Shared(place.column_begin, place.columns, part.column_begin, part.columns);
  if (rows.begin >= rows.end || columns.begin >= columns.end) return absl::OkStatus();
  const std::string path = absl::StrCat(path_, "/", piece.shard);
  ASSIGN_OR_RETURN(const Hdf5File* const file, shards_->Open(path));
  ASSIGN_OR_RETURN(const Hdf5Dataset dataset, file->OpenDataset(absl::StrCat("/", piece.dataset)));
  if (dataset.rows() != place.rows || dataset.row_size() != place.columns) {
    return absl::DataLossError(absl::StrCat(
        path, ": its dataset has another shape than the manifest says; use another checkpoint"));
  }
  const auto element = static_cast<int64_t>(SizeOf(tensor.dtype));
  const StoredType type =
      tensor.dtype == DType::kFloat32 ? StoredType::kFloat32 : StoredType::kFloat64;
  const bool is_as_wide = place.column_begin == part.column_begin && place.columns == part.columns;
  const auto destination_at = [&](int64_t row, int64_t column) {
    return static_cast<char*>(destination.raw()) +
           ((row - part.row_begin) * part.columns + column - part.column_begin) * element;
  };
  std::vector<char> memory;
  for (int64_t block = (rows.begin - place.row_begin) / piece.block_rows;
       place.row_begin + block * piece.block_rows < rows.end; ++block) {
    const int64_t begin = block * piece.block_rows;
    const int64_t count = std::min(piece.block_rows, place.rows - begin);
    const Run wanted = Shared(place.row_begin + begin, count, rows.begin, rows.end - rows.begin);
    const bool is_direct = is_as_wide && wanted.end - wanted.begin == count;
    const auto bytes = static_cast<size_t>(count * place.columns * element);
    if (!is_direct) memory.resize(bytes);
    char* const block_bytes =
        is_direct ? destination_at(wanted.begin, columns.begin) : memory.data();
    RETURN_IF_ERROR(dataset.Read(type, begin, count, block_bytes));
    if (ChecksumText(ChecksumOf(block_bytes, bytes)) !=
        piece.checksums[static_cast<size_t>(block)]) {
      return absl::DataLossError(absl::StrCat(
          path, ": rows ", place.row_begin + begin, " to ", place.row_begin + begin + count - 1,
          " are damaged (checksum mismatch); use another checkpoint"));
    }
    if (is_direct) continue;
    for (int64_t row = wanted.begin; row < wanted.end; ++row) {
      const int64_t in_block =
          (row - place.row_begin - begin) * place.columns + columns.begin - place.column_begin;
      std::memcpy(destination_at(row, columns.begin), block_bytes + in_block * element,
                  static_cast<size_t>((columns.end - columns.begin) * element));
    }
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::Verify() const {
  std::vector<double> memory;
  for (const auto& [name, tensor] : tensors_) {
    for (const Piece& piece : tensor.pieces) {
      const Rectangle& place = piece.place;
      memory.resize(static_cast<size_t>(place.rows * place.columns));
      const TensorView read(memory.data(), tensor.dtype, {place.rows, place.columns});
      RETURN_IF_ERROR(
          Annotate(ReadPiece(tensor, piece, place, read), absl::StrCat(path_, ": tensor ", name)));
    }
  }
  for (const auto& [name, checksum] : metadata_) RETURN_IF_ERROR(Metadata(name).status());
  return absl::OkStatus();
}

std::string CheckpointName(int64_t step) {
  return absl::StrFormat("%s%08d", kStepPrefix, step);
}

absl::StatusOr<std::vector<std::string>> ListCheckpoints(const std::string& directory) {
  std::vector<std::string> names;
  DIR* const opened = opendir(directory.c_str());
  if (opened == nullptr) return ErrnoStatus(errno, "list the checkpoints", directory);
  while (const dirent* const entry = readdir(opened)) {
    if (StepOf(entry->d_name) >= 0) names.emplace_back(entry->d_name);
  }
  closedir(opened);
  std::sort(names.begin(), names.end(),
            [](const std::string& a, const std::string& b) { return StepOf(a) < StepOf(b); });
  for (std::string& name : names) name = absl::StrCat(directory, "/", name);
  return names;
}

absl::Status PruneCheckpoints(const std::string& directory, int64_t keep_last, int64_t keep_every) {
  ASSIGN_OR_RETURN(const std::vector<std::string> checkpoints, ListCheckpoints(directory));
  const auto newest = static_cast<size_t>(std::max<int64_t>(keep_last, 1));
  for (size_t index = 0; index + newest < checkpoints.size(); ++index) {
    const std::string& path = checkpoints[index];
    const int64_t step = StepOf(absl::string_view(path).substr(path.rfind('/') + 1));
    if (keep_every > 0 && step % keep_every == 0) continue;
    RETURN_IF_ERROR(RemoveDirectoryAtomically(path));
  }
  return absl::OkStatus();
}

}  // namespace salamander
