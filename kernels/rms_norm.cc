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

void CheckSplit(const TensorView& rows, const SplitRows& split) {
  SALAMANDER_CHECK(split.sums.empty() ||
                   (split.sums.size() == rows.dim(0) && split.width >= rows.row_size() &&
                    split.sums.dtype() == StatisticsType(rows.dtype())))
      << "rows " << rows.ShapeString() << " of width " << split.width << ", sums "
      << split.sums.ShapeString();
}

}  // namespace

absl::Status RmsNormForward(const ExecutionContext& context, const RmsNormForwardArgs& args) {
  CHECK_SAME_SHAPE(args.residual, args.output);
  CheckPerRowAndChannel(args.residual, args.weight, args.inverse_rms);
  CheckSplit(args.residual, args.split);
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
  CheckSplit(args.hidden, args.split);
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

absl::Status RmsNormSums(const ExecutionContext& context, const RmsNormSumsArgs& args) {
  CheckSplit(args.hidden, {.sums = args.sums, .width = args.hidden.row_size()});
  SALAMANDER_CHECK(args.d_output.empty() == args.weight.empty())
      << "the backward's sums take weight and d_output, the forward's neither";
  if (!args.d_output.empty()) {
    CHECK_SAME_SHAPE(args.hidden, args.d_output);
    SALAMANDER_CHECK(args.weight.size() == args.hidden.row_size()) << args.weight.ShapeString();
  }
  DISPATCH_BACKEND(RmsNormSums, context, args);
}

}  // namespace salamander
