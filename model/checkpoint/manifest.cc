#include "model/checkpoint/manifest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/storage/checksum.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/json_fields.h"

namespace salamander {
namespace {

constexpr char kFormat[] = "salamander checkpoint";

std::string ChecksumOfText(const std::string& text) {
  return ChecksumText(ChecksumOf(text.data(), text.size()));
}

absl::StatusOr<DType> ParseDType(const std::string& name) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    if (name == Name(dtype)) return dtype;
  }
  return absl::DataLossError(absl::StrCat("dtype '", name, "'; expected float32 or float64"));
}

Json PieceJson(const Checkpoint::Piece& piece) {
  return {{"shard", piece.shard},
          {"row_begin", piece.row_begin},
          {"rows", piece.rows},
          {"checksum", piece.checksum}};
}

Json TensorJson(const Checkpoint::Tensor& tensor) {
  Json pieces = Json::array();
  for (const Checkpoint::Piece& piece : tensor.pieces) pieces.push_back(PieceJson(piece));
  return {{"dtype", Name(tensor.dtype)}, {"shape", tensor.shape}, {"pieces", pieces}};
}

// May throw Json::exception; Parse catches.
absl::StatusOr<Checkpoint::Tensor> TensorOf(const Json& json) {
  Checkpoint::Tensor tensor;
  ASSIGN_OR_RETURN(tensor.dtype, ParseDType(json.at("dtype").get<std::string>()));
  tensor.shape = json.at("shape").get<std::vector<int64_t>>();
  for (const Json& piece : json.at("pieces")) {
    tensor.pieces.push_back({piece.at("shard").get<std::string>(),
                             piece.at("row_begin").get<int64_t>(), piece.at("rows").get<int64_t>(),
                             piece.at("checksum").get<std::string>()});
  }
  if (tensor.shape.empty() || tensor.shape.size() > TensorView::kMaxRank ||
      std::any_of(tensor.shape.begin(), tensor.shape.end(), [](int64_t dim) { return dim < 1; })) {
    return absl::DataLossError("an impossible shape");
  }
  auto bytes = static_cast<int64_t>(SizeOf(tensor.dtype));
  for (const int64_t dim : tensor.shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) {
      return absl::DataLossError("a shape too large to exist");
    }
  }
  return tensor;
}

absl::StatusOr<Manifest> ManifestOf(const Json& json) {
  Manifest manifest;
  manifest.shard_bytes = json.at("shards").get<std::map<std::string, int64_t>>();
  manifest.metadata = json.at("metadata").get<std::map<std::string, std::string>>();
  for (const auto& [name, tensor] : json.at("tensors").items()) {
    auto parsed = TensorOf(tensor);
    RETURN_IF_ERROR(Annotate(parsed.status(), absl::StrCat("tensor ", name)));
    manifest.tensors[name] = *std::move(parsed);
  }
  return manifest;
}

absl::Status CheckWhole(const std::string& name, const Checkpoint::Tensor& tensor,
                        const Manifest& manifest) {
  auto row_bytes = static_cast<int64_t>(SizeOf(tensor.dtype));
  for (size_t axis = 1; axis < tensor.shape.size(); ++axis) row_bytes *= tensor.shape[axis];
  int64_t next = 0;
  for (const Checkpoint::Piece& piece : tensor.pieces) {
    if (piece.row_begin != next || piece.rows < 1 || piece.rows > tensor.shape[0] - next) {
      return absl::DataLossError(
          absl::StrCat("tensor ", name, ": rows ", next, " on are missing or written twice"));
    }
    const auto shard = manifest.shard_bytes.find(piece.shard);
    if (shard == manifest.shard_bytes.end()) {
      return absl::DataLossError(
          absl::StrCat("tensor ", name, ": shard ", piece.shard, " is not listed"));
    }
    if (piece.rows > shard->second / row_bytes) {
      return absl::DataLossError(absl::StrCat("tensor ", name, ": ", piece.rows,
                                              " rows do not fit into shard ", piece.shard, " of ",
                                              shard->second, " bytes"));
    }
    next += piece.rows;
  }
  if (next != tensor.shape[0])
    return absl::DataLossError(absl::StrCat("tensor ", name, ": rows ", next, " on are missing"));
  return absl::OkStatus();
}

// A shard or text is a plain name inside the checkpoint, never a way out of it.
absl::Status CheckNames(const Manifest& manifest) {
  const auto is_plain = [](const std::string& name) {
    return !name.empty() && name.find('/') == std::string::npos && name != "." && name != "..";
  };
  for (const auto& [name, bytes] : manifest.shard_bytes) {
    if (!is_plain(name) || bytes < 0)
      return absl::DataLossError(absl::StrCat("shard '", name, "' of ", bytes, " bytes"));
  }
  for (const auto& [name, checksum] : manifest.metadata) {
    if (!is_plain(name)) return absl::DataLossError(absl::StrCat("text '", name, "'"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Manifest::Merge(const Manifest& other) {
  shard_bytes.insert(other.shard_bytes.begin(), other.shard_bytes.end());
  metadata.insert(other.metadata.begin(), other.metadata.end());
  for (const auto& [name, tensor] : other.tensors) {
    auto [found, is_new] = tensors.emplace(name, tensor);
    if (is_new) continue;
    if (found->second.shape != tensor.shape || found->second.dtype != tensor.dtype) {
      return absl::InternalError(absl::StrCat("ranks disagree on the shape of ", name));
    }
    auto& pieces = found->second.pieces;
    pieces.insert(pieces.end(), tensor.pieces.begin(), tensor.pieces.end());
    std::sort(pieces.begin(), pieces.end(),
              [](const Checkpoint::Piece& a, const Checkpoint::Piece& b) {
                return a.row_begin < b.row_begin;
              });
  }
  return absl::OkStatus();
}

std::string ManifestText(const Manifest& manifest) {
  Json tensors = Json::object();
  for (const auto& [name, tensor] : manifest.tensors) tensors[name] = TensorJson(tensor);
  Json json = {{"format", kFormat},
               {"version", kCheckpointVersion},
               {"shards", manifest.shard_bytes},
               {"metadata", manifest.metadata},
               {"tensors", tensors}};
  json["checksum"] = ChecksumOfText(json.dump());
  return json.dump(1) + "\n";
}

absl::StatusOr<Manifest> ParseManifestPart(absl::string_view text) {
  auto parsed = ParseJson("the text", text);
  RETURN_IF_ERROR(parsed.status());
  Json json = *std::move(parsed);
  try {
    if (!json.is_object() || json.value("format", "") != kFormat) {
      return absl::DataLossError("this is not a checkpoint's manifest");
    }
    if (json.at("version").get<int64_t>() != kCheckpointVersion) {
      return absl::UnimplementedError(absl::StrCat(
          "format version ", json.at("version").dump(), "; this program reads version ",
          kCheckpointVersion, ", use the program that wrote it"));
    }
    const std::string found = json.at("checksum").get<std::string>();
    json.erase("checksum");
    if (found != ChecksumOfText(json.dump())) {
      return absl::DataLossError(
          "the manifest is damaged (checksum mismatch); use another checkpoint");
    }
    return ManifestOf(json);
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrCat("the manifest is damaged: ", error.what()));
  }
}

absl::StatusOr<Manifest> ParseManifest(absl::string_view text) {
  ASSIGN_OR_RETURN(Manifest manifest, ParseManifestPart(text));
  RETURN_IF_ERROR(CheckNames(manifest));
  for (const auto& [name, tensor] : manifest.tensors)
    RETURN_IF_ERROR(CheckWhole(name, tensor, manifest));
  return manifest;
}

absl::Status CheckManifest(absl::string_view text) {
  return ParseManifest(text).status();
}

}  // namespace salamander
