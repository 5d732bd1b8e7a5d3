#include "kernels/linear.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

void CheckProduct(const TensorView& input, const TensorView& weight, const TensorView& output) {
  SALAMANDER_CHECK(input.dim(0) == output.dim(0) && input.row_size() == weight.dim(1) &&
                   output.row_size() == weight.dim(0))
      << "input " << input.ShapeString() << ", weight " << weight.ShapeString() << ", output "
      << output.ShapeString();
}

}  // namespace

absl::Status LinearForward(const ExecutionContext& context, const LinearForwardArgs& args) {
  CheckProduct(args.input, args.weight, args.output);
  DISPATCH_BACKEND(LinearForward, context, args);
}

absl::Status LinearBackward(const ExecutionContext& context, const LinearBackwardArgs& args) {
  if (!args.d_input.empty()) CheckProduct(args.d_input, args.weight, args.d_output);
  if (!args.d_weight.empty()) {
    CheckProduct(args.input, args.d_weight, args.d_output);
    SALAMANDER_CHECK(args.d_weight.dtype() == StatisticsType(args.input.dtype()))
        << "d_weight " << args.d_weight.ShapeString() << ", input " << args.input.ShapeString();
  }
  DISPATCH_BACKEND(LinearBackward, context, args);
}

}  // namespace salamander
