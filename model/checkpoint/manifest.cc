#include "model/checkpoint/manifest.h"

#include <algorithm>
#include <iterator>
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
          {"dataset", piece.dataset},
          {"row_begin", piece.place.row_begin},
          {"rows", piece.place.rows},
          {"column_begin", piece.place.column_begin},
          {"columns", piece.place.columns},
          {"block_rows", piece.block_rows},
          {"checksums", piece.checksums}};
}

// May throw Json::exception; Parse catches.
Checkpoint::Piece PieceOf(const Json& json) {
  return {.shard = json.at("shard").get<std::string>(),
          .place = {.row_begin = json.at("row_begin").get<int64_t>(),
                    .rows = json.at("rows").get<int64_t>(),
                    .column_begin = json.at("column_begin").get<int64_t>(),
                    .columns = json.at("columns").get<int64_t>()},
          .dataset = json.at("dataset").get<std::string>(),
          .block_rows = json.at("block_rows").get<int64_t>(),
          .checksums = json.at("checksums").get<std::vector<std::string>>()};
}

// Of version 1: rows of the whole width, one dataset a shard, one checksum.
Checkpoint::Piece RowsOf(const Json& json, const std::string& tensor, int64_t columns) {
  const auto rows = json.at("rows").get<int64_t>();
  return {.shard = json.at("shard").get<std::string>(),
          .place = {.row_begin = json.at("row_begin").get<int64_t>(),
                    .rows = rows,
                    .column_begin = 0,
                    .columns = columns},
          .dataset = tensor,
          .block_rows = rows,
          .checksums = {json.at("checksum").get<std::string>()}};
}

Json TensorJson(const Checkpoint::Tensor& tensor) {
  Json pieces = Json::array();
  for (const Checkpoint::Piece& piece : tensor.pieces) pieces.push_back(PieceJson(piece));
  return {{"dtype", Name(tensor.dtype)}, {"shape", tensor.shape}, {"pieces", pieces}};
}

// May throw Json::exception; Parse catches.
absl::StatusOr<Checkpoint::Tensor> TensorOf(const Json& json, const std::string& name,
                                            int64_t version) {
  Checkpoint::Tensor tensor;
  ASSIGN_OR_RETURN(tensor.dtype, ParseDType(json.at("dtype").get<std::string>()));
  tensor.shape = json.at("shape").get<std::vector<int64_t>>();
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
  const int64_t columns = WholeOf(tensor.shape).columns;
  for (const Json& piece : json.at("pieces"))
    tensor.pieces.push_back(version == 1 ? RowsOf(piece, name, columns) : PieceOf(piece));
  return tensor;
}

absl::StatusOr<Manifest> ManifestOf(const Json& json, int64_t version) {
  Manifest manifest;
  manifest.shard_bytes = json.at("shards").get<std::map<std::string, int64_t>>();
  manifest.metadata = json.at("metadata").get<std::map<std::string, std::string>>();
  for (const auto& [name, tensor] : json.at("tensors").items()) {
    auto parsed = TensorOf(tensor, name, version);
    RETURN_IF_ERROR(Annotate(parsed.status(), absl::StrCat("tensor ", name)));
    manifest.tensors[name] = *std::move(parsed);
  }
  return manifest;
}

// That a piece lies inside its tensor and its shard, and what it says of itself goes together.
absl::Status CheckPiece(const Checkpoint::Tensor& tensor, const Checkpoint::Piece& piece,
                        const Manifest& manifest) {
  const Rectangle whole = WholeOf(tensor.shape);
  const Rectangle& place = piece.place;
  const auto is_inside = [](int64_t begin, int64_t count, int64_t size) {
    return begin >= 0 && count >= 1 && begin < size && count <= size - begin;
  };
  if (!is_inside(place.row_begin, place.rows, whole.rows) ||
      !is_inside(place.column_begin, place.columns, whole.columns)) {
    return absl::DataLossError("a piece lies outside");
  }
  const auto shard = manifest.shard_bytes.find(piece.shard);
  if (shard == manifest.shard_bytes.end())
    return absl::DataLossError(absl::StrCat("shard ", piece.shard, " is not listed"));
  const int64_t row_bytes = place.columns * static_cast<int64_t>(SizeOf(tensor.dtype));
  if (place.rows > shard->second / row_bytes) {
    return absl::DataLossError(absl::StrCat(place.rows, " rows do not fit into shard ", piece.shard,
                                            " of ", shard->second, " bytes"));
  }
  const auto blocks = static_cast<int64_t>(piece.checksums.size());
  if (piece.block_rows < 1 || piece.block_rows > place.rows ||
      blocks != (place.rows - 1) / piece.block_rows + 1) {
    return absl::DataLossError(absl::StrCat(blocks, " checksums of ", piece.block_rows,
                                            " rows each for ", place.rows, " rows"));
  }
  return absl::OkStatus();
}

// The pieces of one tensor, laid down by ascending row: how far down each column is covered.
class Coverage {
 public:
  explicit Coverage(int64_t columns) : columns_(columns) { next_row_[0] = 0; }

  // Fails where the piece does not begin where the ones before it end.
  absl::Status Add(const Rectangle& piece) {
    const auto first = CutAt(piece.column_begin);
    const auto end = CutAt(piece.column_begin + piece.columns);
    for (auto run = first; run != end; ++run) {
      if (run->second > piece.row_begin)
        return absl::DataLossError(absl::StrCat("rows ", piece.row_begin, " on are written twice"));
      if (run->second < piece.row_begin) return Missing(run->second);
    }
    next_row_.erase(std::next(first), end);
    first->second = piece.row_begin + piece.rows;
    return absl::OkStatus();
  }

  absl::Status CheckDone(int64_t rows) const {
    for (const auto& [column, next] : next_row_) {
      if (column < columns_ && next != rows) return Missing(next);
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Missing(int64_t row) {
    return absl::DataLossError(absl::StrCat("rows ", row, " on are missing"));
  }

  // The run of columns that begins here.
  std::map<int64_t, int64_t>::iterator CutAt(int64_t column) {
    const auto after = next_row_.upper_bound(column);
    return next_row_.emplace(column, std::prev(after)->second).first;
  }

  int64_t columns_;
  std::map<int64_t, int64_t> next_row_;  // by the run's first column
};

absl::Status CheckWhole(const Checkpoint::Tensor& tensor, const Manifest& manifest) {
  const Rectangle whole = WholeOf(tensor.shape);
  Coverage coverage(whole.columns);
  int64_t row = 0;
  for (const Checkpoint::Piece& piece : tensor.pieces) {
    RETURN_IF_ERROR(CheckPiece(tensor, piece, manifest));
    if (piece.place.row_begin < row) return absl::DataLossError("pieces are out of order");
    row = piece.place.row_begin;
    RETURN_IF_ERROR(coverage.Add(piece.place));
  }
  return coverage.CheckDone(whole.rows);
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
                return std::pair(a.place.row_begin, a.place.column_begin) <
                       std::pair(b.place.row_begin, b.place.column_begin);
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
    const auto version = json.at("version").get<int64_t>();
    if (version < 1 || version > kCheckpointVersion) {
      return absl::UnimplementedError(
          absl::StrCat("format version ", version, "; this program reads versions 1 to ",
                       kCheckpointVersion, ", use the program that wrote it"));
    }
    const std::string found = json.at("checksum").get<std::string>();
    json.erase("checksum");
    if (found != ChecksumOfText(json.dump())) {
      return absl::DataLossError(
          "the manifest is damaged (checksum mismatch); use another checkpoint");
    }
    return ManifestOf(json, version);
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrCat("the manifest is damaged: ", error.what()));
  }
}

absl::StatusOr<Manifest> ParseManifest(absl::string_view text) {
  ASSIGN_OR_RETURN(Manifest manifest, ParseManifestPart(text));
  RETURN_IF_ERROR(CheckNames(manifest));
  for (const auto& [name, tensor] : manifest.tensors)
    RETURN_IF_ERROR(Annotate(CheckWhole(tensor, manifest), absl::StrCat("tensor ", name)));
  return manifest;
}

absl::Status CheckManifest(absl::string_view text) {
  return ParseManifest(text).status();
}

}  // namespace salamander
