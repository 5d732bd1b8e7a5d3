#include "kernels/linear.h"

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/linear/products.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {

absl::Status LinearForward(const ExecutionContext& context, const LinearForwardArgs& args) {
  return context.cuda->products().Run(context, {.a = args.input,
                                                .b = args.weight,
                                                .transpose_b = true,
                                                .result = args.output,
                                                .accumulate = args.accumulate});
}

absl::Status LinearBackward(const ExecutionContext& context, const LinearBackwardArgs& args) {
  if (!args.d_input.empty()) {
    RETURN_IF_ERROR(context.cuda->products().Run(context, {.a = args.d_output,
                                                           .b = args.weight,
                                                           .result = args.d_input,
                                                           .accumulate = args.accumulate_input}));
  }
  if (args.d_weight.empty()) return absl::OkStatus();
  return context.cuda->products().Run(context, {.a = args.d_output,
                                                .b = args.input,
                                                .transpose_a = true,
                                                .result = args.d_weight,
                                                .accumulate = true});
}

}  // namespace salamander::cuda
