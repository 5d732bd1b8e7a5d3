#include "kernels/sigmoid_gate.h"

#include "kernels/dispatch.h"

namespace salamander {

absl::Status SigmoidGateForward(const ExecutionContext& context,
                                const SigmoidGateForwardArgs& args) {
  CHECK_SAME_SHAPE(args.input, args.gate);
  CHECK_SAME_SHAPE(args.input, args.output);
  DISPATCH_BACKEND(SigmoidGateForward, context, args);
}

absl::Status SigmoidGateBackward(const ExecutionContext& context,
                                 const SigmoidGateBackwardArgs& args) {
  CHECK_SAME_SHAPE(args.input, args.gate);
  CHECK_SAME_SHAPE(args.input, args.d_output);
  CHECK_SAME_SHAPE(args.input, args.d_input);
  CHECK_SAME_SHAPE(args.input, args.d_gate);
  DISPATCH_BACKEND(SigmoidGateBackward, context, args);
}

}  // namespace salamander
