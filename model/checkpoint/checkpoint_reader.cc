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

// Of one read: as much as a disk wants for its full rate.
constexpr int64_t kBytesAtOnce = int64_t{4} << 20;

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

bool Overlap(const Rectangle& a, const Rectangle& b) {
  const Run rows = Shared(a.row_begin, a.rows, b.row_begin, b.rows);
  const Run columns = Shared(a.column_begin, a.columns, b.column_begin, b.columns);
  return rows.begin < rows.end && columns.begin < columns.end;
}

// The step of "step-00001200", or -1.
int64_t StepOf(absl::string_view name) {
  int64_t step = -1;
  if (!absl::ConsumePrefix(&name, kStepPrefix) || !absl::SimpleAtoi(name, &step)) return -1;
  return step;
}

}  // namespace

// Opening a file takes longer than reading a small tensor of it. HDF5 says where a dataset lies,
// and the bytes are read past it: by several threads, and without its lock.
class Checkpoint::OpenShards {
 public:
  struct Shard {
    Hdf5File structure;
    InputFile bytes;
  };

  absl::StatusOr<const Shard*> Open(const std::string& path) {
    const auto found = shards_.find(path);
    if (found != shards_.end()) return &found->second;
    ASSIGN_OR_RETURN(Hdf5File structure, Hdf5File::OpenForReading(path));
    ASSIGN_OR_RETURN(InputFile bytes, InputFile::Open(path));
    return &shards_.emplace(path, Shard{std::move(structure), std::move(bytes)}).first->second;
  }

 private:
  std::map<std::string, Shard> shards_;
};

// Reads what a piece and a wanted part share, block by block.
class Checkpoint::PieceReader {
 public:
  PieceReader(const InputFile& file, int64_t offset, const Tensor& tensor, const Piece& piece,
              const Rectangle& part, const TensorView& destination)
      : file_(file),
        offset_(offset),
        piece_(piece),
        part_(part),
        destination_(static_cast<char*>(destination.raw())),
        element_(static_cast<int64_t>(SizeOf(tensor.dtype))),
        rows_(Shared(piece.place.row_begin, piece.place.rows, part.row_begin, part.rows)),
        columns_(Shared(piece.place.column_begin, piece.place.columns, part.column_begin,
                        part.columns)) {}

  absl::Status ReadAll() const {
    const Rectangle& place = piece_.place;
    const int64_t first = (rows_.begin - place.row_begin) / piece_.block_rows * piece_.block_rows;
    const int64_t end = std::min(place.rows, rows_.end - place.row_begin);
    const int64_t block_bytes = piece_.block_rows * place.columns * element_;
    const int64_t batch_rows = std::max<int64_t>(kBytesAtOnce / block_bytes, 1) * piece_.block_rows;
    std::vector<char> memory;
    for (int64_t begin = first; begin < end; begin += batch_rows)
      RETURN_IF_ERROR(ReadBlocks(begin, std::min(batch_rows, end - begin), memory));
    return absl::OkStatus();
  }

 private:
  // Blocks that hold the piece's rows [begin, begin + wanted); `begin` is a block's. Those of the
  // part's width go where they belong at once, others through `memory`.
  absl::Status ReadBlocks(int64_t begin, int64_t wanted, std::vector<char>& memory) const;
  absl::Status CheckBlocks(int64_t begin, int64_t count, const char* bytes) const;

  char* DestinationAt(int64_t row, int64_t column) const {
    return destination_ +
           ((row - part_.row_begin) * part_.columns + column - part_.column_begin) * element_;
  }

  const InputFile& file_;
  int64_t offset_;  // of the piece in the file
  const Piece& piece_;
  const Rectangle& part_;
  char* destination_;
  int64_t element_;
  Run rows_, columns_;  // that both have
};

absl::Status Checkpoint::PieceReader::ReadBlocks(int64_t begin, int64_t wanted,
                                                 std::vector<char>& memory) const {
  const Rectangle& place = piece_.place;
  const int64_t whole_blocks =
      (wanted + piece_.block_rows - 1) / piece_.block_rows * piece_.block_rows;
  const int64_t count = std::min(whole_blocks, place.rows - begin);
  const int64_t row = place.row_begin + begin;
  const Run shared = Shared(row, count, rows_.begin, rows_.end - rows_.begin);
  const bool is_direct = place.column_begin == part_.column_begin &&
                         place.columns == part_.columns && shared.end - shared.begin == count;
  const int64_t row_bytes = place.columns * element_;
  const auto bytes = static_cast<size_t>(count * row_bytes);
  if (!is_direct) memory.resize(bytes);
  char* const read = is_direct ? DestinationAt(shared.begin, columns_.begin) : memory.data();
  RETURN_IF_ERROR(file_.ReadAt(offset_ + begin * row_bytes, read, bytes));
  RETURN_IF_ERROR(CheckBlocks(begin, count, read));
  if (is_direct) return absl::OkStatus();
  for (int64_t at = shared.begin; at < shared.end; ++at) {
    const int64_t in_read =
        (at - row) * row_bytes + (columns_.begin - place.column_begin) * element_;
    std::memcpy(DestinationAt(at, columns_.begin), read + in_read,
                static_cast<size_t>((columns_.end - columns_.begin) * element_));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::PieceReader::CheckBlocks(int64_t begin, int64_t count,
                                                  const char* bytes) const {
  const int64_t row_bytes = piece_.place.columns * element_;
  for (int64_t done = 0; done < count; done += piece_.block_rows) {
    const int64_t rows = std::min(piece_.block_rows, count - done);
    const uint64_t checksum =
        ChecksumOf(bytes + done * row_bytes, static_cast<size_t>(rows * row_bytes));
    const auto block = static_cast<size_t>((begin + done) / piece_.block_rows);
    if (ChecksumText(checksum) == piece_.checksums[block]) continue;
    const int64_t row = piece_.place.row_begin + begin + done;
    return absl::DataLossError(
        absl::StrCat(file_.path(), ": rows ", row, " to ", row + rows - 1,
                     " are damaged (checksum mismatch); use another checkpoint"));
  }
  return absl::OkStatus();
}

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

absl::Status Checkpoint::ReadPiece(const Tensor& tensor, const Piece& piece, const Rectangle& part,
                                   const TensorView& destination) const {
  if (!Overlap(piece.place, part)) return absl::OkStatus();
  const std::string path = absl::StrCat(path_, "/", piece.shard);
  ASSIGN_OR_RETURN(const OpenShards::Shard* const shard, shards_->Open(path));
  ASSIGN_OR_RETURN(const Hdf5Dataset dataset,
                   shard->structure.OpenDataset(absl::StrCat("/", piece.dataset)));
  const StoredType type =
      tensor.dtype == DType::kFloat32 ? StoredType::kFloat32 : StoredType::kFloat64;
  if (dataset.type() != type || dataset.rows() != piece.place.rows ||
      dataset.row_size() != piece.place.columns) {
    return absl::DataLossError(absl::StrCat(
        path, ": its dataset has another shape than the manifest says; use another checkpoint"));
  }
  ASSIGN_OR_RETURN(const int64_t offset, dataset.FileOffset());
  return PieceReader(shard->bytes, offset, tensor, piece, part, destination).ReadAll();
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
