#include "model/layers/lightning_mixer.h"

#include "kernels/base/status_macros.h"
#include "kernels/lightning_attention.h"
#include "kernels/rms_norm.h"
#include "model/layers/lightning_slice.h"
#include "model/parallel/sequence_shards.h"

namespace salamander {
namespace {

// The output norm's rows go over the heads of all tensor ranks: its sums over all of them, in the
// arena. Nothing where one rank holds them all.
absl::StatusOr<SplitRows> OutputNormSums(const MixerPass& pass, const RmsNormSumsArgs& part) {
  const int ranks = TensorRanks(pass.parallel);
  if (ranks == 1) return SplitRows{};
  RmsNormSumsArgs args = part;
  args.sums =
      pass.execution->arena->Tensor(StatisticsType(part.hidden.dtype()), {part.hidden.dim(0)});
  RETURN_IF_ERROR(RmsNormSums(*pass.execution, args));
  RETURN_IF_ERROR(pass.parallel->tensor().AllReduceSum(args.sums));
  return SplitRows{.sums = args.sums, .width = ranks * part.hidden.row_size()};
}

}  // namespace

LightningMixer::LightningMixer(const LightningConfig& config, double norm_epsilon,
                               const MixerTensors& weights)
    : shape_(ShapeOf(weights, config.head_dim, norm_epsilon)),
      weights_(weights),
      scale_(LightningScaleValue(config)),
      slopes_(LightningSlopes(config)) {}

absl::Span<const double> LightningMixer::Slopes(const MixerPass& pass) const {
  const auto heads = static_cast<size_t>(shape_.heads);
  return absl::MakeConstSpan(slopes_).subspan(
      static_cast<size_t>(TensorRank(pass.parallel)) * heads, heads);
}

absl::Status LightningMixer::Forward(const MixerPass& pass, TensorView input, TensorView output,
                                     MixerActivations& saved) const {
  RETURN_IF_ERROR(ProjectQkv(pass, shape_, weights_, input, saved));
  Arena& arena = *pass.execution->arena;
  const int64_t tokens = input.dim(0);
  const int64_t inner = shape_.heads * shape_.head_dim;
  saved.attention = arena.Tensor(input.dtype(), {tokens, shape_.heads, shape_.head_dim});
  const absl::Span<const double> slopes = Slopes(pass);
  const LightningSlice slice(pass, slopes);
  if (pass.cache == nullptr) {
    ASSIGN_OR_RETURN(saved.states, slice.StartStates(saved.key, saved.value));
  }
  RETURN_IF_ERROR(LightningForward(
      *pass.execution, {.q = saved.query,
                        .k = saved.key,
                        .v = saved.value,
                        .slopes = slopes,
                        .segments = pass.cache == nullptr ? slice.segments() : pass.segments,
                        .scale = scale_,
                        .states = pass.cache == nullptr ? saved.states : pass.cache->states,
                        .out = saved.attention}));
  TensorView mixed = saved.attention.Reshape({tokens, inner});
  if (!weights_.output_norm.empty()) {
    saved.normed = arena.Tensor(input.dtype(), {tokens, inner});
    saved.output_inverse_rms = arena.Tensor(StatisticsType(input.dtype()), {tokens});
    const ArenaScope scope(arena);
    ASSIGN_OR_RETURN(const SplitRows split, OutputNormSums(pass, {.hidden = mixed}));
    RETURN_IF_ERROR(RmsNormForward(*pass.execution, {.residual = mixed,
                                                     .branch = {},
                                                     .weight = weights_.output_norm,
                                                     .epsilon = shape_.norm_epsilon,
                                                     .hidden = {},
                                                     .output = saved.normed,
                                                     .inverse_rms = saved.output_inverse_rms,
                                                     .split = split}));
    mixed = saved.normed;
  }
  return ProjectOutput(pass, weights_, input, mixed, output, saved);
}

absl::Status LightningMixer::Backward(const MixerPass& pass, TensorView input,
                                      const MixerActivations& saved, TensorView d_output,
                                      TensorView d_input, const MixerTensors& gradients) const {
  SALAMANDER_CHECK(pass.cache == nullptr) << "there is no backward through a generation cache";
  Arena& arena = *pass.execution->arena;
  const ArenaScope scope(arena);
  const int64_t tokens = input.dim(0);
  const int64_t inner = shape_.heads * shape_.head_dim;
  const TensorView attention = saved.attention.Reshape({tokens, inner});
  const TensorView d_mixed = arena.Tensor(input.dtype(), {tokens, inner});
  RETURN_IF_ERROR(
      ProjectOutputBackward(pass, {.weights = weights_,
                                   .gradients = gradients,
                                   .input = input,
                                   .mixed = saved.normed.empty() ? attention : saved.normed,
                                   .saved = saved,
                                   .d_output = d_output,
                                   .d_mixed = d_mixed,
                                   .d_input = d_input}));
  TensorView d_attention = d_mixed;
  if (!saved.normed.empty()) {
    d_attention = arena.Tensor(input.dtype(), {tokens, inner});
    ASSIGN_OR_RETURN(const SplitRows split, OutputNormSums(pass, {.hidden = attention,
                                                                  .weight = weights_.output_norm,
                                                                  .d_output = d_mixed}));
    RETURN_IF_ERROR(RmsNormBackward(*pass.execution, {.hidden = attention,
                                                      .weight = weights_.output_norm,
                                                      .inverse_rms = saved.output_inverse_rms,
                                                      .d_output = d_mixed,
                                                      .d_hidden = {},
                                                      .d_residual = d_attention,
                                                      .d_branch = {},
                                                      .d_weight = gradients.output_norm,
                                                      .split = split}));
  }
  const auto like_heads = [&] {
    return arena.Tensor(input.dtype(), {tokens, shape_.heads, shape_.head_dim});
  };
  const QkvGradients d{like_heads(), like_heads(), like_heads()};
  const TensorView d_heads = d_attention.Reshape({tokens, shape_.heads, shape_.head_dim});
  const absl::Span<const double> slopes = Slopes(pass);
  const LightningSlice slice(pass, slopes);
  ASSIGN_OR_RETURN(const TensorView d_states, slice.EndGradients(saved.query, d_heads, scale_));
  RETURN_IF_ERROR(LightningBackward(*pass.execution, {.q = saved.query,
                                                      .k = saved.key,
                                                      .v = saved.value,
                                                      .slopes = slopes,
                                                      .segments = slice.segments(),
                                                      .scale = scale_,
                                                      .states = saved.states,
                                                      .d_states = d_states,
                                                      .d_out = d_heads,
                                                      .dq = d.query,
                                                      .dk = d.key,
                                                      .dv = d.value}));
  return ProjectQkvBackward(pass, {.shape = shape_,
                                   .weights = weights_,
                                   .gradients = gradients,
                                   .input = input,
                                   .saved = saved,
                                   .d = d,
                                   .d_input = d_input});
}

}  // namespace salamander
