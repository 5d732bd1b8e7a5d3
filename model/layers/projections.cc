#include "model/layers/projections.h"

#include "kernels/base/status_macros.h"
#include "kernels/head_norm_rope.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/sigmoid_gate.h"

namespace salamander {
namespace {

// One of query and key: where it comes from and where its parts are saved.
struct HeadProjection {
  TensorView weight, norm;
  TensorView& projected;
  TensorView& inverse_rms;
  TensorView& result;
  int64_t heads;
};

TensorView Flat(const TensorView& heads) {
  return heads.Reshape({heads.dim(0), heads.row_size()});
}

absl::Status ProjectHeads(const MixerPass& pass, const ProjectionShape& shape, TensorView input,
                          const HeadProjection& part) {
  Arena& arena = *pass.execution->arena;
  const int64_t tokens = input.dim(0);
  part.result = arena.Tensor(input.dtype(), {tokens, part.heads, shape.head_dim});
  part.projected = part.result;
  if (!part.norm.empty()) {
    part.projected = arena.Tensor(input.dtype(), {tokens, part.heads, shape.head_dim});
    part.inverse_rms = arena.Tensor(StatisticsType(input.dtype()), {tokens, part.heads});
  }
  RETURN_IF_ERROR(LinearForward(
      *pass.execution, {.input = input, .weight = part.weight, .output = Flat(part.projected)}));
  if (part.norm.empty() && pass.rope.cosines.empty()) return absl::OkStatus();
  return HeadNormRopeForward(*pass.execution, {.input = part.projected,
                                               .weight = part.norm,
                                               .epsilon = shape.norm_epsilon,
                                               .cosines = pass.rope.cosines,
                                               .sines = pass.rope.sines,
                                               .output = part.result,
                                               .inverse_rms = part.inverse_rms});
}

struct HeadProjectionGradient {
  TensorView weight, norm;
  TensorView d_weight, d_norm;
  TensorView projected, inverse_rms;
  TensorView d_result;
};

absl::Status ProjectHeadsBackward(const MixerPass& pass, TensorView input,
                                  const HeadProjectionGradient& part, TensorView d_input) {
  const bool has_norm = !part.norm.empty();
  if (has_norm || !pass.rope.cosines.empty()) {
    RETURN_IF_ERROR(
        HeadNormRopeBackward(*pass.execution, {.input = has_norm ? part.projected : TensorView(),
                                               .weight = part.norm,
                                               .cosines = pass.rope.cosines,
                                               .sines = pass.rope.sines,
                                               .inverse_rms = part.inverse_rms,
                                               .d_output = part.d_result,
                                               .d_input = part.d_result,
                                               .d_weight = part.d_norm}));
  }
  return LinearBackward(*pass.execution, {.input = input,
                                          .weight = part.weight,
                                          .d_output = Flat(part.d_result),
                                          .d_input = d_input,
                                          .d_weight = part.d_weight,
                                          .accumulate_input = true});
}

}  // namespace

ProjectionShape ShapeOf(const MixerTensors& weights, int64_t head_dim, double norm_epsilon) {
  return {.heads = weights.query.dim(0) / head_dim,
          .kv_heads = weights.key.dim(0) / head_dim,
          .head_dim = head_dim,
          .norm_epsilon = norm_epsilon};
}

absl::Status ProjectQkv(const MixerPass& pass, const ProjectionShape& shape,
                        const MixerTensors& weights, TensorView input, MixerActivations& saved) {
  RETURN_IF_ERROR(ProjectHeads(pass, shape, input,
                               {weights.query, weights.query_norm, saved.query_projected,
                                saved.query_inverse_rms, saved.query, shape.heads}));
  RETURN_IF_ERROR(ProjectHeads(pass, shape, input,
                               {weights.key, weights.key_norm, saved.key_projected,
                                saved.key_inverse_rms, saved.key, shape.kv_heads}));
  saved.value =
      pass.execution->arena->Tensor(input.dtype(), {input.dim(0), shape.kv_heads, shape.head_dim});
  return LinearForward(*pass.execution,
                       {.input = input, .weight = weights.value, .output = Flat(saved.value)});
}

absl::Status ProjectQkvBackward(const MixerPass& pass, const ProjectQkvBackwardArgs& args) {
  const MixerTensors& w = args.weights;
  const MixerTensors& g = args.gradients;
  RETURN_IF_ERROR(
      ProjectHeadsBackward(pass, args.input,
                           {w.query, w.query_norm, g.query, g.query_norm,
                            args.saved.query_projected, args.saved.query_inverse_rms, args.d.query},
                           args.d_input));
  RETURN_IF_ERROR(
      ProjectHeadsBackward(pass, args.input,
                           {w.key, w.key_norm, g.key, g.key_norm, args.saved.key_projected,
                            args.saved.key_inverse_rms, args.d.key},
                           args.d_input));
  return LinearBackward(*pass.execution, {.input = args.input,
                                          .weight = w.value,
                                          .d_output = Flat(args.d.value),
                                          .d_input = args.d_input,
                                          .d_weight = g.value,
                                          .accumulate_input = true});
}

absl::Status ProjectOutput(const MixerPass& pass, const MixerTensors& weights, TensorView input,
                           TensorView mixed, TensorView output, MixerActivations& saved) {
  saved.gated = mixed;
  if (!weights.gate.empty()) {
    Arena& arena = *pass.execution->arena;
    saved.gate = arena.Tensor(input.dtype(), {mixed.dim(0), mixed.dim(1)});
    saved.gated = arena.Tensor(input.dtype(), {mixed.dim(0), mixed.dim(1)});
    RETURN_IF_ERROR(LinearForward(*pass.execution,
                                  {.input = input, .weight = weights.gate, .output = saved.gate}));
    RETURN_IF_ERROR(SigmoidGateForward(
        *pass.execution, {.input = mixed, .gate = saved.gate, .output = saved.gated}));
  }
  return LinearForward(*pass.execution,
                       {.input = saved.gated, .weight = weights.output, .output = output});
}

absl::Status ProjectOutputBackward(const MixerPass& pass, const ProjectOutputBackwardArgs& args) {
  const ExecutionContext& execution = *pass.execution;
  RETURN_IF_ERROR(LinearBackward(execution, {.input = args.saved.gated,
                                             .weight = args.weights.output,
                                             .d_output = args.d_output,
                                             .d_input = args.d_mixed,
                                             .d_weight = args.gradients.output}));
  if (args.weights.gate.empty())
    return args.d_input.empty() ? absl::OkStatus() : Zero(execution, args.d_input);
  const ArenaScope scope(*execution.arena);
  const TensorView d_gate =
      execution.arena->Tensor(args.mixed.dtype(), {args.mixed.dim(0), args.mixed.dim(1)});
  RETURN_IF_ERROR(SigmoidGateBackward(execution, {.input = args.mixed,
                                                  .gate = args.saved.gate,
                                                  .d_output = args.d_mixed,
                                                  .d_input = args.d_mixed,
                                                  .d_gate = d_gate}));
  return LinearBackward(execution, {.input = args.input,
                                    .weight = args.weights.gate,
                                    .d_output = d_gate,
                                    .d_input = args.d_input,
                                    .d_weight = args.gradients.gate});
}

}  // namespace salamander
