#include <algorithm>
#include <atomic>
#include <cstdio>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "data/storage/atomic_path.h"
#include "data/storage/checksum.h"
#include "data/storage/file_bytes.h"
#include "data/storage/hdf5_file.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/manifest.h"

namespace salamander {
namespace {

std::string ShardName(int rank, int ranks) {
  return absl::StrFormat("shard-%05d-of-%05d.h5", rank, ranks);
}

StoredType StoredTypeOf(DType dtype) {
  SALAMANDER_CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat64)
      << "checkpoints hold fp32 and fp64";
  return dtype == DType::kFloat32 ? StoredType::kFloat32 : StoredType::kFloat64;
}

// Of one checksum: small enough that what is read or copied is still in a cache when its checksum
// is taken, and that a rank which needs a part of a piece reads little else.
constexpr int64_t kBlockBytes = int64_t{1} << 20;

// Of one write, and of the memory for what comes from a device.
constexpr int64_t kStagedBytes = int64_t{8} << 20;

// A second piece of a tensor needs another name in the shard.
std::string DatasetName(const std::string& tensor, size_t index) {
  return index == 0 ? tensor : absl::StrCat(tensor, ".", index);
}

// A shard under construction, and what the manifest will say of it. HDF5 gives each piece its
// place; the bytes are written past it, without its lock, so that others read their data meanwhile.
class ShardWriter {
 public:
  ShardWriter(const std::string& directory, std::string name, const ExecutionContext& where,
              const std::atomic<bool>& is_cancelled)
      : path_(absl::StrCat(directory, "/", name)),
        name_(std::move(name)),
        where_(where),
        is_cancelled_(is_cancelled) {}

  absl::StatusOr<Manifest> Write(absl::Span<const TensorPiece> pieces);

 private:
  struct Place {
    const std::string* tensor = nullptr;
    size_t piece = 0;  // of the tensor's
    int64_t offset = 0;
  };
  absl::Status Lay(absl::Span<const TensorPiece> pieces);
  absl::StatusOr<int64_t> LayPiece(Hdf5File& file, const TensorPiece& piece,
                                   const Checkpoint::Piece& written) const;
  absl::Status WriteBytes(OutputFile& file, const TensorPiece& piece, int64_t offset,
                          Checkpoint::Piece& written);

  absl::Status CheckWanted() const {
    return is_cancelled_.load(std::memory_order_relaxed)
               ? absl::CancelledError(absl::StrCat(path_, ": the checkpoint was given up"))
               : absl::OkStatus();
  }

  // These rows on the host: themselves where they lie there.
  absl::StatusOr<const char*> OnHost(const TensorView& rows) {
    if (where_.device.kind == DeviceKind::kCpu) return static_cast<const char*>(rows.raw());
    staged_.resize(static_cast<size_t>(rows.bytes()));
    RETURN_IF_ERROR(CopyToHost(where_, rows, staged_.data()));
    return staged_.data();
  }

  std::string path_, name_;
  const ExecutionContext& where_;
  const std::atomic<bool>& is_cancelled_;
  std::vector<char> staged_;
  std::vector<Place> places_;  // of the pieces
  Manifest part_;
};

absl::StatusOr<Manifest> ShardWriter::Write(absl::Span<const TensorPiece> pieces) {
  RETURN_IF_ERROR(Lay(pieces));
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Open(path_));
  for (size_t index = 0; index < pieces.size(); ++index) {
    const Place& place = places_[index];
    Checkpoint::Piece& written = part_.tensors[*place.tensor].pieces[place.piece];
    RETURN_IF_ERROR(WriteBytes(file, pieces[index], place.offset, written));
  }
  RETURN_IF_ERROR(CheckWanted());
  RETURN_IF_ERROR(file.Close());
  ASSIGN_OR_RETURN(part_.shard_bytes[name_], FileSize(path_));
  return std::move(part_);
}

// The file with every dataset in its place, and none of their elements.
absl::Status ShardWriter::Lay(absl::Span<const TensorPiece> pieces) {
  ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path_));
  for (const TensorPiece& piece : pieces) {
    const auto found = part_.tensors.try_emplace(
        piece.name, Checkpoint::Tensor{piece.rows.dtype(), piece.shape, {}});
    std::vector<Checkpoint::Piece>& written = found.first->second.pieces;
    const int64_t row_bytes = piece.rows.bytes() / piece.rows.dim(0);
    written.push_back(
        {.shard = name_,
         .place = piece.rectangle(),
         .dataset = DatasetName(piece.name, written.size()),
         .block_rows = std::clamp<int64_t>(kBlockBytes / row_bytes, 1, piece.rows.dim(0)),
         .checksums = {}});
    ASSIGN_OR_RETURN(const int64_t offset, LayPiece(file, piece, written.back()));
    places_.push_back({&found.first->first, written.size() - 1, offset});
  }
  return file.Close();
}

absl::StatusOr<int64_t> ShardWriter::LayPiece(Hdf5File& file, const TensorPiece& piece,
                                              const Checkpoint::Piece& written) const {
  std::vector<int64_t> dims = {written.place.rows, written.place.columns};
  if (written.place.columns == WholeOf(piece.shape).columns) {
    dims = piece.shape;
    dims[0] = written.place.rows;
  }
  ASSIGN_OR_RETURN(const Hdf5Dataset dataset,
                   file.CreateDataset(absl::StrCat("/", written.dataset),
                                      StoredTypeOf(piece.rows.dtype()), dims));
  return dataset.FileOffset();
}

absl::Status ShardWriter::WriteBytes(OutputFile& file, const TensorPiece& piece, int64_t offset,
                                     Checkpoint::Piece& written) {
  const int64_t rows = written.place.rows;
  const int64_t row_bytes = piece.rows.bytes() / rows;
  const int64_t blocks_at_once =
      std::max<int64_t>(kStagedBytes / (row_bytes * written.block_rows), 1);
  const int64_t rows_at_once = blocks_at_once * written.block_rows;
  for (int64_t begin = 0; begin < rows; begin += rows_at_once) {
    RETURN_IF_ERROR(CheckWanted());
    const int64_t count = std::min(rows_at_once, rows - begin);
    ASSIGN_OR_RETURN(const char* const bytes, OnHost(piece.rows.Rows(begin, count)));
    for (int64_t block = 0; block < count; block += written.block_rows) {
      const int64_t in_block = std::min(written.block_rows, count - block);
      written.checksums.push_back(ChecksumText(
          ChecksumOf(bytes + block * row_bytes, static_cast<size_t>(in_block * row_bytes))));
    }
    RETURN_IF_ERROR(
        file.WriteAt(offset + begin * row_bytes, bytes, static_cast<size_t>(count * row_bytes)));
  }
  return absl::OkStatus();
}

// Presents every tensor whole to other programs.
absl::Status WriteVirtualView(const std::string& directory, const Manifest& manifest) {
  ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(absl::StrCat(directory, "/checkpoint.h5")));
  for (const auto& [name, tensor] : manifest.tensors) {
    const int64_t columns = WholeOf(tensor.shape).columns;
    std::vector<VirtualSource> sources;
    for (const Checkpoint::Piece& piece : tensor.pieces) {
      sources.push_back({.file = piece.shard,
                         .dataset = absl::StrCat("/", piece.dataset),
                         .source_begin = 0,
                         .source_rows = piece.place.rows,
                         .target_begin = piece.place.row_begin,
                         .count = piece.place.rows,
                         .column_begin = piece.place.column_begin,
                         .columns = piece.place.columns == columns ? 0 : piece.place.columns});
    }
    RETURN_IF_ERROR(file.CreateVirtualDataset(absl::StrCat("/", name), StoredTypeOf(tensor.dtype),
                                              tensor.shape, sources));
  }
  return file.Close();
}

// What an earlier writer of this directory left behind when it was killed goes first: it may be as
// large as the checkpoint that is about to be written.
absl::StatusOr<AtomicDirectory> BeginDirectory(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  RETURN_IF_ERROR(RemoveLeftovers(parent, Leftovers::kOfDeadWriters).status());
  return AtomicDirectory::Begin(path);
}

absl::Status PublishIn(AtomicDirectory& directory, const std::vector<std::string>& parts,
                       const std::map<std::string, std::string>& metadata) {
  const std::string& path = directory.temporary_path();
  Manifest manifest;
  for (const std::string& part : parts) {
    ASSIGN_OR_RETURN(const Manifest parsed, ParseManifestPart(part));
    RETURN_IF_ERROR(manifest.Merge(parsed));
  }
  RETURN_IF_ERROR(CreateDirectories(absl::StrCat(path, "/metadata")));
  for (const auto& [name, text] : metadata) {
    RETURN_IF_ERROR(WriteFileBytes(absl::StrCat(path, "/metadata/", name), text));
    manifest.metadata[name] = ChecksumText(ChecksumOf(text.data(), text.size()));
  }
  RETURN_IF_ERROR(WriteVirtualView(path, manifest));
  const std::string text = ManifestText(manifest);
  RETURN_IF_ERROR(CheckManifest(text));
  RETURN_IF_ERROR(WriteFileBytes(absl::StrCat(path, "/manifest.json"), text));
  return directory.Commit();
}

}  // namespace

Rectangle WholeOf(absl::Span<const int64_t> shape) {
  Rectangle whole{.rows = shape[0], .columns = 1};
  for (const int64_t dim : shape.subspan(1)) whole.columns *= dim;
  return whole;
}

struct CheckpointWriter::Parts {
  std::string path;
  std::string temporary;
  std::string shard_name;
  std::optional<AtomicDirectory> directory;  // rank 0's
  Manifest written;                          // by this rank
  std::atomic<bool> is_cancelled = false;
};

CheckpointWriter::CheckpointWriter(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
CheckpointWriter::CheckpointWriter(CheckpointWriter&& other) noexcept = default;
CheckpointWriter::~CheckpointWriter() = default;

absl::StatusOr<CheckpointWriter> CheckpointWriter::Begin(const std::string& path,
                                                         Communicator& ranks) {
  auto parts = std::make_unique<Parts>();
  parts->path = path;
  parts->shard_name = ShardName(ranks.rank(), ranks.size());
  absl::Status status;
  if (ranks.rank() == 0) {
    auto directory = BeginDirectory(path);
    status = directory.status();
    if (directory.ok()) parts->directory.emplace(*std::move(directory));
  }
  RETURN_IF_ERROR(AgreeOnStatus(ranks, status));
  ASSIGN_OR_RETURN(
      const std::vector<std::string> paths,
      ranks.AllGather(parts->directory.has_value() ? parts->directory->temporary_path() : ""));
  parts->temporary = paths.front();
  return CheckpointWriter(std::move(parts));
}

absl::Status CheckpointWriter::WriteShard(absl::Span<const TensorPiece> pieces,
                                          const ExecutionContext& where) {
  auto written =
      ShardWriter(parts_->temporary, parts_->shard_name, where, parts_->is_cancelled).Write(pieces);
  const absl::Status status = written.status();
  if (written.ok()) parts_->written = *std::move(written);
  return WithFinalName(status, parts_->temporary, parts_->path);
}

void CheckpointWriter::Cancel() {
  parts_->is_cancelled.store(true, std::memory_order_relaxed);
}

absl::Status CheckpointWriter::Publish(const absl::Status& written,
                                       const std::map<std::string, std::string>& metadata,
                                       Communicator& ranks) {
  RETURN_IF_ERROR(AgreeOnStatus(ranks, written));
  ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                   ranks.AllGather(ManifestText(parts_->written)));
  absl::Status status;
  if (ranks.rank() == 0) {
    status = WithFinalName(PublishIn(*parts_->directory, texts, metadata), parts_->temporary,
                           parts_->path);
  }
  return AgreeOnStatus(ranks, status);
}

absl::Status WriteCheckpoint(const std::string& path, absl::Span<const TensorPiece> pieces,
                             const std::map<std::string, std::string>& metadata,
                             Communicator& ranks, const ExecutionContext& where) {
  ASSIGN_OR_RETURN(CheckpointWriter writer, CheckpointWriter::Begin(path, ranks));
  return writer.Publish(writer.WriteShard(pieces, where), metadata, ranks);
}

std::vector<TensorPiece> ShareOut(absl::Span<const TensorPiece> replicated, int rank, int ranks) {
  std::vector<int64_t> bytes(static_cast<size_t>(ranks), 0);
  std::vector<size_t> order(replicated.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return replicated[a].rows.bytes() > replicated[b].rows.bytes();
  });
  std::vector<TensorPiece> mine;
  for (const size_t index : order) {
    const auto lightest = std::min_element(bytes.begin(), bytes.end());
    *lightest += replicated[index].rows.bytes();
    if (lightest - bytes.begin() == rank) mine.push_back(replicated[index]);
  }
  return mine;
}

}  // namespace salamander
