#include "kernels/swiglu.h"

#include "kernels/dispatch.h"

namespace salamander {

absl::Status SwigluForward(const ExecutionContext& context, const SwigluForwardArgs& args) {
  CHECK_SAME_SHAPE(args.gate, args.up);
  CHECK_SAME_SHAPE(args.gate, args.output);
  DISPATCH_BACKEND(SwigluForward, context, args);
}

absl::Status SwigluBackward(const ExecutionContext& context, const SwigluBackwardArgs& args) {
  CHECK_SAME_SHAPE(args.gate, args.up);
  CHECK_SAME_SHAPE(args.gate, args.d_output);
  CHECK_SAME_SHAPE(args.gate, args.d_gate);
  CHECK_SAME_SHAPE(args.gate, args.d_up);
  if (!args.output.empty()) {
    CHECK_SAME_SHAPE(args.gate, args.output);
  }
  DISPATCH_BACKEND(SwigluBackward, context, args);
}

}  // namespace salamander
