// The parameters of a model: what they are called and shaped, and one flat buffer that holds them
// all, so that the optimizer, the gradient reduction and the checkpoint each walk a single range.
#ifndef MODEL_PARAMETERS_H_
#define MODEL_PARAMETERS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/arena.h"
#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "kernels/device.h"
#include "model/config.h"

namespace salamander {

enum class ParameterKind { kMatrix, kEmbedding, kHead, kNorm };

// Where a parameter belongs; trainable sets and learning-rate groups are chosen by these.
enum class ParameterRole {
  kEmbedding,
  kMlp,
  kNorm,
  kSoftmaxMixer,
  kLightningMixer,
  kCandidate,
  kHead
};

// One of the ranks that a model's weights are split among (tensor parallelism).
struct TensorShard {
  int rank = 0;
  int ranks = 1;
};

// What a rank holds of a parameter that is split: `shape` is then shorter than `whole_shape` on one
// axis. Heads go to ranks in order; ranks that share a head of keys and values hold the same rows.
struct ParameterSpec {
  std::string name;            // "layers.3.mixer.query.weight"
  std::vector<int64_t> shape;  // [out, in] or [size], of the rank's part
  ParameterKind kind = ParameterKind::kMatrix;
  ParameterRole role = ParameterRole::kMlp;
  int64_t layer = -1;                // -1 outside the layers
  int64_t offset = 0;                // elements into the flat buffer, 64-element aligned
  std::vector<int64_t> whole_shape;  // of the model's parameter
  int split_axis = 0;
  int64_t split_begin = 0;  // where the part begins on that axis
  int holders = 1;          // ranks that hold these same elements: neighbours in the tensor group
  int holder = 0;           // this one among them

  int64_t size() const;
  // Where the part's element `index` lies in the whole.
  int64_t WholeIndex(int64_t index) const;
};

// Fails where the model cannot be split among so many ranks, naming what does not divide.
absl::Status CheckTensorShards(const ModelConfig& config, int ranks);

// Of the parameters that are split among so many ranks, but not down to one holder: how many ranks
// hold the same elements. Ascending, each once.
std::vector<int> HolderCounts(const ModelConfig& config, int ranks);

// Names, in order: "embedding.weight" [V, C]; per layer i "layers.{i}." + "input_norm.weight",
// "post_norm.weight" [C], "mlp.gate.weight", "mlp.up.weight" [F, C], "mlp.down.weight" [C, F], and
// for a mixer, under "mixer." (its own) or "candidate." (being aligned): "query.weight" [H*D, C],
// "key.weight", "value.weight" [Hkv*D, C], "output.weight" [C, H*D], and where the config has them
// "query_norm.weight", "key_norm.weight" [D], "output_norm.weight" [H*D], "gate.weight" [H*D, C];
// "final_norm.weight" [C]; "head.weight" [V, C] unless tied.
// Split among tensor ranks: embedding and head by V; query, key, value, gate and output_norm by
// heads, output's columns with them; mlp by F. Other norms are on every rank.
class ParameterLayout {
 public:
  // Every parameter starts on a cache line in any precision, bf16 on a device's of 128 bytes.
  static constexpr int64_t kAlignmentElements = 64;

  // The end is padded so that `replicas` ranks can take equal, aligned parts of the whole.
  // Requires: CheckTensorShards(config, shard.ranks).
  explicit ParameterLayout(const ModelConfig& config, const TensorShard& shard = {},
                           int replicas = 1);

  const TensorShard& shard() const { return shard_; }
  absl::Span<const ParameterSpec> specs() const { return specs_; }
  int64_t total_size() const { return total_size_; }  // elements, padding included
  int64_t parameter_count() const;                    // of the whole model
  const ParameterSpec* Find(
      const std::string& name) const;  // null where the model has none of that name

 private:
  // How a parameter is split: whole where `units` is 0; else `axis` holds that many heads or rows,
  // which the ranks share out.
  struct Split {
    int axis = 0;
    int64_t units = 0;
  };
  void Add(const std::string& name, const std::vector<int64_t>& shape, const Split& split,
           ParameterKind kind, ParameterRole role, int64_t layer);
  void AddMixer(const ModelConfig& config, MixerKind mixer, ParameterRole role, int64_t layer);

  TensorShard shard_;
  std::vector<ParameterSpec> specs_;
  std::map<std::string, size_t> index_;
  int64_t total_size_ = 0;
};

// One flat, zero-filled buffer laid out by a ParameterLayout: weights, gradients or a moment.
class ParameterBuffer {
 public:
  // Of the host.
  static absl::StatusOr<ParameterBuffer> Create(const ParameterLayout& layout, DType dtype);
  // Of the session's device. Fails where it has not so much memory left.
  static absl::StatusOr<ParameterBuffer> Create(const ParameterLayout& layout, DType dtype,
                                                DeviceSession& session);

  // For planning: addresses alone, unless it is given other memory.
  static ParameterBuffer Planned(const ParameterLayout& layout, DType dtype,
                                 Arena memory = Arena::Planned());

  TensorView View(const ParameterSpec& spec) const;
  TensorView Flat() const { return flat_; }

 private:
  ParameterBuffer(Arena memory, DType dtype, int64_t size)
      : memory_(std::move(memory)), flat_(memory_.Tensor(dtype, {size})) {}

  Arena memory_;
  TensorView flat_;
};

// Copies a buffer of the host's to one of the same layout on the context's device, rounding where
// that one's dtype is narrower. Waits for nothing.
absl::Status CopyParameters(const ExecutionContext& context, const ParameterBuffer& host,
                            const ParameterBuffer& device);

// Fills the weights, on the host, as a model trained from scratch starts: Normal(0,
// initializer_range) for matrices, ones for norms; a pure function of (seed, parameter name, place
// in the whole parameter), so that it depends on neither order nor layout.
void InitializeWeights(const ModelConfig& config, const ParameterLayout& layout, uint64_t seed,
                       ParameterBuffer& weights);

// Fills one parameter from Normal(0, standard_deviation) as a pure function of (seed, name).
void FillNormal(TensorView view, const std::string& name, uint64_t seed, double standard_deviation);

}  // namespace salamander

#endif  // MODEL_PARAMETERS_H_
