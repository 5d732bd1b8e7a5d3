// The decoder: embedding, layers of mixer and MLP in a pre-norm residual stream, final norm. The
// head belongs to the loss (kernels/head_loss.h), which never keeps the logits.
//   h_0 = embedding_scale * E[token]
//   h'  = h + c * mixer(RMSNorm(h))        h = h' + c * mlp(RMSNorm(h'))        c = residual_scale
// Among R tensor ranks each has the residual stream, norms included, of its N = T / R rows alone
// (model/parallel/sequence_shards.h); on one rank N = T.
#ifndef MODEL_TRANSFORMER_H_
#define MODEL_TRANSFORMER_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "model/config.h"
#include "model/decode_cache.h"
#include "model/layers/mixer.h"
#include "model/layers/mlp.h"
#include "model/model_tensors.h"
#include "model/parallel/parallel_context.h"
#include "model/recomputation.h"

namespace salamander {

// One layer's mixer at work, as a listener sees it.
struct MixerCall {
  int64_t layer = 0;
  TensorView input, output;  // [N, C] normalised input and what the mixer made of it
  MixerPass candidate_pass;  // under which the layer's candidate runs on the same input
};

// Called after each mixer of a forward. Alignment and parity reports listen here.
using MixerTap = std::function<absl::Status(const MixerCall& call)>;

struct ForwardPass {
  const ExecutionContext* execution = nullptr;
  TensorView tokens;             // [T] int32, on the device like every tensor
  Segments segments;             // cover every row
  DecodeCache* cache = nullptr;  // generation
  absl::Span<const bool> use_candidate =
      {};        // [layers] run the candidate in place of the layer's own mixer
  MixerTap tap;  // or empty
  absl::Span<const Recomputation> recomputation = {};  // [layers]; empty: kNone
  // Null: one rank holds the model and every token. Requires: else T is a multiple of the tensor
  // ranks, and the weights are the rank's (ParameterLayout).
  const ParallelContext* parallel = nullptr;
};

// Inverse norms are in the activations' StatisticsType.
struct LayerActivations {
  TensorView input_hidden, input_inverse_rms, mixer_input;  // [N, C], [N], [N, C]
  MixerActivations mixer;
  TensorView post_hidden, post_inverse_rms, mlp_input;  // [N, C], [N], [N, C]
  MlpActivations mlp;
};

// What the backward needs, in the context's arena.
struct Activations {
  RotaryTables softmax_rope, lightning_rope;
  std::vector<LayerActivations> layers;
  TensorView final_hidden, final_inverse_rms;  // [N, C], [N]
};

class Transformer {
 public:
  // Borrows `weights`; they outlive the transformer and may change between calls.
  Transformer(const ModelConfig& config, ModelTensors weights);

  const ModelConfig& config() const { return config_; }
  const ModelTensors& weights() const { return weights_; }

  // The final hidden state [N, C], in the arena. With `saved` everything the backward needs stays
  // in the arena with it; without, only the result does.
  absl::StatusOr<TensorView> Forward(const ForwardPass& pass, Activations* saved) const;

  // Adds to the gradients that are not empty views. Consumes `saved` (activations are overwritten
  // on the way). d_hidden [N, C] is only read.
  absl::Status Backward(const ForwardPass& pass, Activations& saved, TensorView d_hidden,
                        const ModelTensors& gradients) const;

  // Requires: the layer has a candidate.
  const Mixer& candidate(int64_t layer) const;

 private:
  struct Stream;          // the residual stream between layers
  struct GradientStream;  // its gradient

  bool RunsCandidate(const ForwardPass& pass, int64_t layer) const;
  const Mixer& MixerOf(const ForwardPass& pass, int64_t layer) const;
  MixerPass PassOf(const ForwardPass& pass, const Activations& tables, int64_t layer,
                   MixerKind kind) const;
  MixerKind KindOf(const ForwardPass& pass, int64_t layer) const;
  absl::Status MakeTables(const ForwardPass& pass, DType dtype, Activations& tables) const;
  // A layer's two halves. Each adds the stream's branch to its residual, which gives `hidden`,
  // normalises that, and leaves in `branch` what its mixer or MLP makes of it.
  struct Half;
  absl::Status Normalise(const ExecutionContext& execution, const Half& half, TensorView weight,
                         TensorView inverse_rms, TensorView output) const;
  absl::Status MixerHalf(const ForwardPass& pass, int64_t layer, const Activations& tables,
                         const Half& half, LayerActivations& saved) const;
  absl::Status MlpHalf(const ForwardPass& pass, int64_t layer, const Half& half,
                       LayerActivations& saved) const;
  absl::Status LayerForward(const ForwardPass& pass, int64_t layer, const Activations& tables,
                            Stream& stream, LayerActivations& saved) const;
  // Computes again what LayerForward did not keep, in the arena, to the same bits. `whole` [T, C]
  // is scratch for all rows; `input` [T, C] holds the mixer's.
  absl::Status RecomputeLayer(const ForwardPass& pass, int64_t layer, const Activations& tables,
                              TensorView whole, LayerActivations& saved) const;
  absl::Status RecomputeMixer(const ForwardPass& pass, int64_t layer, const Activations& tables,
                              TensorView input, LayerActivations& saved) const;
  absl::Status LayerBackward(const ForwardPass& pass, int64_t layer, Activations& saved,
                             const GradientStream& stream, const LayerTensors& gradients) const;
  absl::Status MlpHalfBackward(const ForwardPass& pass, int64_t layer,
                               const LayerActivations& saved, const GradientStream& stream,
                               const LayerTensors& gradients) const;
  absl::Status MixerHalfBackward(const ForwardPass& pass, int64_t layer, Activations& saved,
                                 const GradientStream& stream, const LayerTensors& gradients) const;

  ModelConfig config_;
  ModelTensors weights_;
  std::vector<std::unique_ptr<Mixer>> mixers_;
  std::vector<std::unique_ptr<Mixer>> candidates_;  // null where a layer has none
};

}  // namespace salamander

#endif  // MODEL_TRANSFORMER_H_
