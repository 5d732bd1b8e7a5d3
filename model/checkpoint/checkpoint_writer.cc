#include <algorithm>
#include <cstdio>
#include <numeric>
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

absl::StatusOr<Manifest> WriteShard(const std::string& directory,
                                    absl::Span<const TensorPiece> pieces, Communicator& ranks,
                                    const ExecutionContext& where) {
  const std::string name = ShardName(ranks.rank(), ranks.size());
  const std::string path = absl::StrCat(directory, "/", name);
  Manifest part;
  ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path));
  for (const TensorPiece& piece : pieces) {
    std::vector<int64_t> dims = piece.shape;
    dims[0] = piece.rows.dim(0);
    const StoredType type = StoredTypeOf(piece.rows.dtype());
    ASSIGN_OR_RETURN(Hdf5Dataset dataset,
                     file.CreateDataset(absl::StrCat("/", piece.name), type, dims));
    std::vector<char> bytes(static_cast<size_t>(piece.rows.bytes()));
    RETURN_IF_ERROR(CopyToHost(where, piece.rows, bytes.data()));
    RETURN_IF_ERROR(dataset.Write(type, 0, dims[0], bytes.data()));
    const uint64_t checksum = ChecksumOf(bytes.data(), bytes.size());
    part.tensors[piece.name] = {piece.rows.dtype(),
                                piece.shape,
                                {{name, piece.row_begin, dims[0], ChecksumText(checksum)}}};
  }
  RETURN_IF_ERROR(file.Close());
  RETURN_IF_ERROR(SyncPath(path));
  ASSIGN_OR_RETURN(part.shard_bytes[name], FileSize(path));
  return part;
}

// Presents every tensor whole to other programs.
absl::Status WriteVirtualView(const std::string& directory, const Manifest& manifest) {
  ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(absl::StrCat(directory, "/checkpoint.h5")));
  for (const auto& [name, tensor] : manifest.tensors) {
    std::vector<VirtualSource> sources;
    for (const Checkpoint::Piece& piece : tensor.pieces) {
      sources.push_back({.file = piece.shard,
                         .dataset = absl::StrCat("/", name),
                         .source_begin = 0,
                         .source_rows = piece.rows,
                         .target_begin = piece.row_begin,
                         .count = piece.rows});
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

absl::Status Publish(AtomicDirectory& directory, const std::vector<std::string>& parts,
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

absl::Status WriteCheckpoint(const std::string& path, absl::Span<const TensorPiece> pieces,
                             const std::map<std::string, std::string>& metadata,
                             Communicator& ranks, const ExecutionContext& where) {
  const bool is_first = ranks.rank() == 0;
  auto directory = is_first ? BeginDirectory(path)
                            : absl::StatusOr<AtomicDirectory>(absl::UnknownError("rank 0 owns it"));
  RETURN_IF_ERROR(AgreeOnStatus(ranks, is_first ? directory.status() : absl::OkStatus()));
  ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                   ranks.AllGather(is_first ? directory->temporary_path() : ""));

  const std::string& temporary = paths.front();
  const auto part = WriteShard(temporary, pieces, ranks, where);
  RETURN_IF_ERROR(AgreeOnStatus(ranks, WithFinalName(part.status(), temporary, path)));
  ASSIGN_OR_RETURN(const std::vector<std::string> parts, ranks.AllGather(ManifestText(*part)));
  return AgreeOnStatus(
      ranks, is_first ? WithFinalName(Publish(*directory, parts, metadata), temporary, path)
                      : absl::OkStatus());
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
