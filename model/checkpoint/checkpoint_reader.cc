#include <algorithm>
#include <cerrno>

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

absl::Status CheckShape(const Checkpoint::Tensor& tensor, const TensorView& destination) {
  bool same = tensor.dtype == destination.dtype() &&
              static_cast<int>(tensor.shape.size()) == destination.rank();
  for (int axis = 0; same && axis < destination.rank(); ++axis) {
    same = tensor.shape[static_cast<size_t>(axis)] == destination.dim(axis);
  }
  if (same) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("holds ", ShapeText(tensor), "; expected ",
                                                 destination.ShapeString(),
                                                 "; the checkpoint is another model's"));
}

absl::Status ReadPiece(const std::string& directory, const std::string& name,
                       const Checkpoint::Piece& piece, const TensorView& rows) {
  const std::string path = absl::StrCat(directory, "/", piece.shard);
  ASSIGN_OR_RETURN(const Hdf5File file, Hdf5File::OpenForReading(path));
  ASSIGN_OR_RETURN(const Hdf5Dataset dataset, file.OpenDataset(absl::StrCat("/", name)));
  const StoredType type =
      rows.dtype() == DType::kFloat32 ? StoredType::kFloat32 : StoredType::kFloat64;
  if (dataset.rows() != piece.rows || dataset.row_size() != rows.row_size()) {
    return absl::DataLossError(absl::StrCat(
        path, ": its dataset has another shape than the manifest says; use another checkpoint"));
  }
  RETURN_IF_ERROR(dataset.Read(type, 0, piece.rows, rows.raw()));
  if (ChecksumText(ChecksumOf(rows.raw(), static_cast<size_t>(rows.bytes()))) != piece.checksum) {
    return absl::DataLossError(
        absl::StrCat(path, ": rows ", piece.row_begin, " to ", piece.row_begin + piece.rows - 1,
                     " are damaged (checksum mismatch); use another checkpoint"));
  }
  return absl::OkStatus();
}

// The step of "step-00001200", or -1.
int64_t StepOf(absl::string_view name) {
  int64_t step = -1;
  if (!absl::ConsumePrefix(&name, kStepPrefix) || !absl::SimpleAtoi(name, &step)) return -1;
  return step;
}

}  // namespace

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
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    return absl::NotFoundError(
        absl::StrCat(path_, ": it holds no tensor ", name, "; the checkpoint is another model's"));
  const std::string where = absl::StrCat(path_, ": tensor ", name);
  RETURN_IF_ERROR(Annotate(CheckShape(found->second, destination), where));
  for (const Piece& piece : found->second.pieces) {
    RETURN_IF_ERROR(Annotate(
        ReadPiece(path_, name, piece, destination.Rows(piece.row_begin, piece.rows)), where));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::Verify() const {
  for (const auto& [name, tensor] : tensors_) {
    int64_t size = 1;
    for (const int64_t dim : tensor.shape) size *= dim;
    std::vector<double> memory(static_cast<size_t>(size));
    TensorView view(memory.data(), tensor.dtype, {size});
    const int64_t row_size = size / tensor.shape[0];
    for (const Piece& piece : tensor.pieces) {
      const TensorView rows =
          view.Reshape({tensor.shape[0], row_size}).Rows(piece.row_begin, piece.rows);
      RETURN_IF_ERROR(
          Annotate(ReadPiece(path_, name, piece, rows), absl::StrCat(path_, ": tensor ", name)));
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
