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
// Any number of ranks reads what any number wrote.
#ifndef MODEL_CHECKPOINT_CHECKPOINT_H_
#define MODEL_CHECKPOINT_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "model/parallel/communicator.h"

namespace salamander {

// Rows of a logical tensor that this rank writes. Requires: fp32 or fp64.
struct TensorPiece {
  std::string name;            // "weights/layers.0.mixer.query.weight"
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t row_begin = 0;       // of the first axis
  TensorView rows;             // [n, shape[1], ...], on the host or a device
};

// Collective: every rank gives its pieces; rank 0's texts are written. Nothing appears under `path`
// before all of it is on disk. Fails where `path` exists, and on every rank where one rank fails.
// Removes what writers that were killed left in the same folder. The pieces lie on `where`'s device
// and come to the host one at a time.
absl::Status WriteCheckpoint(const std::string& path, absl::Span<const TensorPiece> pieces,
                             const std::map<std::string, std::string>& metadata,
                             Communicator& ranks, const ExecutionContext& where = {});

// Shares whole tensors out so that every rank writes about the same number of bytes; a pure
// function of the list.
std::vector<TensorPiece> ShareOut(absl::Span<const TensorPiece> replicated, int rank, int ranks);

class Checkpoint {
 public:
  struct Piece {
    std::string shard;
    int64_t row_begin = 0;
    int64_t rows = 0;
    std::string checksum;
  };
  struct Tensor {
    DType dtype = DType::kFloat32;
    std::vector<int64_t> shape;
    std::vector<Piece> pieces;  // ascending, without gaps
  };

  // Reads and checks the manifest, and that every shard is there at its full size.
  static absl::StatusOr<Checkpoint> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  std::vector<std::string> MetadataNames() const;
  absl::StatusOr<std::string> Metadata(const std::string& name) const;

  // Fills `destination` from the shards, checking every piece's checksum. Fails where the tensor is
  // missing, misshaped or of another dtype, naming it.
  absl::Status Read(const std::string& name, const TensorView& destination) const;

  // Reads everything against its checksums.
  absl::Status Verify() const;

 private:
  explicit Checkpoint(std::string path) : path_(std::move(path)) {}
  absl::Status CheckShards() const;

  std::string path_;
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
