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

struct ParameterSpec {
  std::string name;            // "layers.3.mixer.query.weight"
  std::vector<int64_t> shape;  // [out, in] or [size]
  ParameterKind kind = ParameterKind::kMatrix;
  ParameterRole role = ParameterRole::kMlp;
  int64_t layer = -1;  // -1 outside the layers
  int64_t offset = 0;  // elements into the flat buffer, 64-element aligned

  int64_t size() const;
};

// Names, in order: "embedding.weight" [V, C]; per layer i "layers.{i}." + "input_norm.weight",
// "post_norm.weight" [C], "mlp.gate.weight", "mlp.up.weight" [F, C], "mlp.down.weight" [C, F], and
// for a mixer, under "mixer." (its own) or "candidate." (being aligned): "query.weight" [H*D, C],
// "key.weight", "value.weight" [Hkv*D, C], "output.weight" [C, H*D], and where the config has them
// "query_norm.weight", "key_norm.weight" [D], "output_norm.weight" [H*D], "gate.weight" [H*D, C];
// "final_norm.weight" [C]; "head.weight" [V, C] unless tied.
class ParameterLayout {
 public:
  explicit ParameterLayout(const ModelConfig& config);

  absl::Span<const ParameterSpec> specs() const { return specs_; }
  int64_t total_size() const { return total_size_; }  // elements, padding included
  int64_t parameter_count() const;                    // elements that are parameters
  const ParameterSpec* Find(
      const std::string& name) const;  // null where the model has none of that name

 private:
  void Add(const std::string& name, std::vector<int64_t> shape, ParameterKind kind,
           ParameterRole role, int64_t layer);
  void AddMixer(const ModelConfig& config, MixerKind mixer, ParameterRole role, int64_t layer);

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

  // Addresses alone, for planning (Arena::Planned).
  static ParameterBuffer Planned(const ParameterLayout& layout, DType dtype);

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
// initializer_range) for matrices, ones for norms; a pure function of (seed, parameter name), so
// that it depends on neither order nor layout.
void InitializeWeights(const ModelConfig& config, const ParameterLayout& layout, uint64_t seed,
                       ParameterBuffer& weights);

// Fills one parameter from Normal(0, standard_deviation) as a pure function of (seed, name).
void FillNormal(TensorView view, const std::string& name, uint64_t seed, double standard_deviation);

}  // namespace salamander

#endif  // MODEL_PARAMETERS_H_
