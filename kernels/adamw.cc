#include "kernels/adamw.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

void CheckIsSum(const TensorView& sum) {
  SALAMANDER_CHECK(!sum.empty() && sum.dtype() == DType::kFloat64 && sum.size() == 1)
      << "a sum of squares is one double, not " << sum.ShapeString();
}

}  // namespace

absl::Status AdamWUpdate(const ExecutionContext& context, const AdamWArgs& args) {
  SALAMANDER_CHECK(args.step >= 1) << "step " << args.step << " has no bias correction";
  CheckIsSum(args.gradient_squares);
  for (const AdamWTensor& tensor : args.tensors) {
    CHECK_SAME_SHAPE(tensor.weight, tensor.gradient);
    CHECK_SAME_SHAPE(tensor.weight, tensor.first_moment);
    CHECK_SAME_SHAPE(tensor.weight, tensor.second_moment);
    SALAMANDER_CHECK(tensor.rounded.empty() || (tensor.rounded.dtype() == DType::kBFloat16 &&
                                                tensor.rounded.size() == tensor.weight.size()))
        << "rounded " << tensor.rounded.ShapeString() << ", weight " << tensor.weight.ShapeString();
  }
  DISPATCH_BACKEND(AdamWUpdate, context, args);
}

absl::Status SumOfSquares(const ExecutionContext& context, absl::Span<const TensorView> tensors,
                          const TensorView& sum) {
  CheckIsSum(sum);
  DISPATCH_BACKEND(SumOfSquares, context, tensors, sum);
}

}  // namespace salamander
