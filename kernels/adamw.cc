#include "kernels/adamw.h"

#include "kernels/cpu/cpu_ops.h"
#include "kernels/dispatch.h"

namespace salamander {

absl::Status AdamWUpdate(const ExecutionContext& context, const AdamWArgs& args) {
  SALAMANDER_CHECK(args.step >= 1) << "step " << args.step << " has no bias correction";
  for (const AdamWTensor& tensor : args.tensors) {
    CHECK_SAME_SHAPE(tensor.weight, tensor.gradient);
    CHECK_SAME_SHAPE(tensor.weight, tensor.first_moment);
    CHECK_SAME_SHAPE(tensor.weight, tensor.second_moment);
  }
  DISPATCH_BACKEND(AdamWUpdate, context, args);
}

absl::Status SumOfSquares(const ExecutionContext& context, absl::Span<const TensorView> tensors,
                          double* sum) {
  DISPATCH_BACKEND(SumOfSquares, context, tensors, sum);
}

}  // namespace salamander
