#include "kernels/rms_norm.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

void CheckPerRowAndChannel(const TensorView& rows, const TensorView& weight,
                           const TensorView& inverse_rms) {
  SALAMANDER_CHECK(weight.size() == rows.row_size() && inverse_rms.size() == rows.dim(0) &&
                   inverse_rms.dtype() == StatisticsType(rows.dtype()))
      << "rows " << rows.ShapeString() << ", weight " << weight.ShapeString() << ", inverse_rms "
      << inverse_rms.ShapeString();
}

}  // namespace

absl::Status RmsNormForward(const ExecutionContext& context, const RmsNormForwardArgs& args) {
  CHECK_SAME_SHAPE(args.residual, args.output);
  CheckPerRowAndChannel(args.residual, args.weight, args.inverse_rms);
  SALAMANDER_CHECK(args.hidden.empty() == args.branch.empty())
      << "hidden is written where there is a branch to add, and only there";
  if (!args.branch.empty()) {
    CHECK_SAME_SHAPE(args.residual, args.branch);
    CHECK_SAME_SHAPE(args.residual, args.hidden);
  }
  DISPATCH_BACKEND(RmsNormForward, context, args);
}

absl::Status RmsNormBackward(const ExecutionContext& context, const RmsNormBackwardArgs& args) {
  CHECK_SAME_SHAPE(args.hidden, args.d_output);
  CheckPerRowAndChannel(args.hidden, args.weight, args.inverse_rms);
  if (!args.d_hidden.empty()) {
    CHECK_SAME_SHAPE(args.hidden, args.d_hidden);
  }
  if (!args.d_residual.empty()) {
    CHECK_SAME_SHAPE(args.hidden, args.d_residual);
  }
  if (!args.d_branch.empty()) {
    CHECK_SAME_SHAPE(args.hidden, args.d_branch);
  }
  if (!args.d_weight.empty()) {
    CHECK_GRADIENT_OF(args.weight, args.d_weight);
  }
  DISPATCH_BACKEND(RmsNormBackward, context, args);
}

}  // namespace salamander
