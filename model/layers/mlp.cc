#include "model/layers/mlp.h"

#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "kernels/swiglu.h"

namespace salamander {

absl::Status MlpForward(const ExecutionContext& context, const MlpTensors& weights,
                        TensorView input, TensorView output, MlpActivations& saved) {
  Arena& arena = *context.arena;
  const int64_t tokens = input.dim(0);
  const int64_t inner = weights.up.dim(0);
  saved.gate = arena.Tensor(input.dtype(), {tokens, inner});
  saved.up = arena.Tensor(input.dtype(), {tokens, inner});
  RETURN_IF_ERROR(
      LinearForward(context, {.input = input, .weight = weights.gate, .output = saved.gate}));
  RETURN_IF_ERROR(
      LinearForward(context, {.input = input, .weight = weights.up, .output = saved.up}));
  if (output.empty()) return absl::OkStatus();
  const ArenaScope scope(arena);
  const TensorView product = arena.Tensor(input.dtype(), {tokens, inner});
  RETURN_IF_ERROR(SwigluForward(context, {.gate = saved.gate, .up = saved.up, .output = product}));
  return LinearForward(context, {.input = product, .weight = weights.down, .output = output});
}

absl::Status MlpBackward(const ExecutionContext& context, const MlpBackwardArgs& args) {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const int64_t tokens = args.input.dim(0);
  const int64_t inner = args.saved.up.dim(1);
  const TensorView d_product = arena.Tensor(args.input.dtype(), {tokens, inner});
  const TensorView product = arena.Tensor(args.input.dtype(), {tokens, inner});
  RETURN_IF_ERROR(LinearBackward(context, {.input = {},
                                           .weight = args.weights.down,
                                           .d_output = args.d_output,
                                           .d_input = d_product,
                                           .d_weight = {}}));
  RETURN_IF_ERROR(SwigluBackward(context, {.gate = args.saved.gate,
                                           .up = args.saved.up,
                                           .d_output = d_product,
                                           .d_gate = args.saved.gate,
                                           .d_up = d_product,
                                           .output = product}));
  RETURN_IF_ERROR(LinearBackward(context, {.input = product,
                                           .weight = {},
                                           .d_output = args.d_output,
                                           .d_input = {},
                                           .d_weight = args.gradients.down}));
  RETURN_IF_ERROR(LinearBackward(context, {.input = args.input,
                                           .weight = args.weights.gate,
                                           .d_output = args.saved.gate,
                                           .d_input = args.d_input,
                                           .d_weight = args.gradients.gate}));
  return LinearBackward(context, {.input = args.input,
                                  .weight = args.weights.up,
                                  .d_output = d_product,
                                  .d_input = args.d_input,
                                  .d_weight = args.gradients.up,
                                  .accumulate_input = true});
}

}  // namespace salamander
