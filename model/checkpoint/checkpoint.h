// Checkpoints: named tensors and named texts in one directory, complete or absent. Layout:
// docs/formats/checkpoint.md.
//
//   manifest.json             every logical tensor (dtype, shape, where its pieces lie, their
//                             checksums), every shard's size, every text's checksum, and a checksum
//                             of itself
//   shard-00000-of-00002.h5   what rank 0 wrote: contiguous datasets, one for each piece
//   checkpoint.h5             every tensor whole, by HDF5 virtual datasets, for h5py and h5dump;
//                             never read by us
//   metadata/<name>           texts: model config, recipe, trainer state, tokenizer
//
// Any number of ranks reads what any number wrote, each the parts it needs.
#ifndef MODEL_CHECKPOINT_CHECKPOINT_H_
#define MODEL_CHECKPOINT_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "model/parallel/communicator.h"

namespace salamander {

// A part of a tensor, which is seen as a matrix: rows along its first axis, and all else as
// columns.
struct Rectangle {
  int64_t row_begin = 0;
  int64_t rows = 0;
  int64_t column_begin = 0;
  int64_t columns = 0;

  bool operator==(const Rectangle&) const = default;
};
// The whole of a tensor of this shape.
Rectangle WholeOf(absl::Span<const int64_t> shape);

// A rectangle of a logical tensor that this rank writes. Requires: fp32 or fp64; all columns, or a
// tensor of two axes.
struct TensorPiece {
  std::string name;            // "weights/layers.0.mixer.query.weight"
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t row_begin = 0;       // of the first axis
  TensorView rows;             // [rows, columns] or [rows, shape[1], ...], on the host or a device
  int64_t column_begin = 0;

  Rectangle rectangle() const { return {row_begin, rows.dim(0), column_begin, rows.row_size()}; }
};

// Collective: every rank gives its pieces; rank 0's texts are written. Nothing appears under `path`
// before all of it is on disk. Fails where `path` exists, and on every rank where one rank fails.
// Removes what writers that were killed left in the same folder. The pieces lie on `where`'s device
// and come to the host a few megabytes at a time.
absl::Status WriteCheckpoint(const std::string& path, absl::Span<const TensorPiece> pieces,
                             const std::map<std::string, std::string>& metadata,
                             Communicator& ranks, const ExecutionContext& where = {});

// The same in its steps, for a writer that does the second one beside other work. Destroyed before
// it is published, it leaves nothing.
class CheckpointWriter {
 public:
  // Collective: rank 0 makes the directory.
  static absl::StatusOr<CheckpointWriter> Begin(const std::string& path, Communicator& ranks);
  CheckpointWriter(CheckpointWriter&& other) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) = delete;
  ~CheckpointWriter();

  // Writes and syncs this rank's shard. Of this rank alone, on any thread; once.
  absl::Status WriteShard(absl::Span<const TensorPiece> pieces, const ExecutionContext& where = {});

  // Makes WriteShard fail soon, whether it is under way or still to come: a few megabytes later.
  // Of this rank alone, on any thread.
  void Cancel();

  // Collective, once WriteShard returned on every rank, with what it returned here.
  absl::Status Publish(const absl::Status& written,
                       const std::map<std::string, std::string>& metadata, Communicator& ranks);

 private:
  struct Parts;
  explicit CheckpointWriter(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

// Shares whole tensors out so that every rank writes about the same number of bytes; a pure
// function of the list.
std::vector<TensorPiece> ShareOut(absl::Span<const TensorPiece> replicated, int rank, int ranks);

class Checkpoint {
 public:
  struct Piece {
    std::string shard;
    Rectangle place;
    std::string dataset;                 // in the shard
    int64_t block_rows = 0;              // that a checksum is over; the last block may have fewer
    std::vector<std::string> checksums;  // of the blocks

    bool operator==(const Piece&) const = default;
  };
  struct Tensor {
    DType dtype = DType::kFloat32;
    std::vector<int64_t> shape;
    std::vector<Piece> pieces;  // by row, then column; together the whole, nothing twice
  };

  // Reads and checks the manifest, and that every shard is there at its full size.
  static absl::StatusOr<Checkpoint> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  std::vector<std::string> MetadataNames() const;
  absl::StatusOr<std::string> Metadata(const std::string& name) const;

  // Fills `destination`, on the host, from the shards, checking every checksum. Fails where the
  // tensor is missing, misshaped or of another dtype, naming it.
  absl::Status Read(const std::string& name, const TensorView& destination) const;

  // The same for a part of a tensor of this shape, row-major. Reads the blocks of rows that hold
  // it, each against its checksum.
  absl::Status ReadPart(const std::string& name, absl::Span<const int64_t> shape,
                        const Rectangle& part, const TensorView& destination) const;

  // Reads everything against its checksums.
  absl::Status Verify() const;

 private:
  class OpenShards;
  class PieceReader;

  explicit Checkpoint(std::string path);
  absl::Status CheckShards() const;
  absl::Status ReadPiece(const Tensor& tensor, const Piece& piece, const Rectangle& part,
                         const TensorView& destination) const;

  std::string path_;
  std::shared_ptr<OpenShards> shards_;  // opened as they are read
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, int64_t> shard_bytes_;
  std::map<std::string, std::string> metadata_;  // name -> checksum
};

// What Checkpoint::Open makes of a manifest's text, without touching any other file. For the
// fuzzer.
absl::Status CheckManifest(absl::string_view text);

// The run's checkpoints, "step-00001200", oldest first. Only complete ones: a writer that died
// leaves none of that name.
absl::StatusOr<std::vector<std::string>> ListCheckpoints(const std::string& directory);
std::string CheckpointName(int64_t step);

// Removes all but the newest `keep_last` (at least one) and those whose step is a multiple of
// `keep_every` (0: none).
absl::Status PruneCheckpoints(const std::string& directory, int64_t keep_last, int64_t keep_every);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_CHECKPOINT_H_
