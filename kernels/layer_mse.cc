#include "kernels/layer_mse.h"

#include "kernels/dispatch.h"

namespace salamander {

absl::Status LayerMse(const ExecutionContext& context, const LayerMseArgs& args) {
  CHECK_SAME_SHAPE(args.output, args.target);
  SALAMANDER_CHECK(args.loss_sum.size() == 1 && args.loss_sum.dtype() == DType::kFloat64)
      << "loss_sum " << args.loss_sum.ShapeString() << "; the loss is always computed";
  SALAMANDER_CHECK(args.moments.empty() ||
                   (args.moments.size() == 3 && args.moments.dtype() == DType::kFloat64))
      << "moments " << args.moments.ShapeString();
  if (!args.d_output.empty()) {
    CHECK_SAME_SHAPE(args.output, args.d_output);
  }
  SALAMANDER_CHECK(args.row_weights.empty() || args.row_weights.size() == args.output.dim(0))
      << "row_weights " << args.row_weights.ShapeString() << ", output "
      << args.output.ShapeString();
  DISPATCH_BACKEND(LayerMse, context, args);
}

}  // namespace salamander
