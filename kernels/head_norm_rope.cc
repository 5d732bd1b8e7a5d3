#include "kernels/head_norm_rope.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

// `heads` is any of the [T, H, D] views.
void CheckNorm(const TensorView& heads, const TensorView& weight, const TensorView& inverse_rms) {
  SALAMANDER_CHECK(heads.rank() == 3 && weight.empty() == inverse_rms.empty())
      << "heads " << heads.ShapeString() << "; weight and inverse_rms go together";
  if (weight.empty()) return;
  SALAMANDER_CHECK(weight.size() == heads.dim(2) && inverse_rms.dim(0) == heads.dim(0) &&
                   inverse_rms.row_size() == heads.dim(1) &&
                   inverse_rms.dtype() == StatisticsType(heads.dtype()))
      << "heads " << heads.ShapeString() << ", weight " << weight.ShapeString() << ", inverse_rms "
      << inverse_rms.ShapeString();
}

void CheckRotation(const TensorView& heads, const TensorView& cosines, const TensorView& sines) {
  SALAMANDER_CHECK(cosines.empty() == sines.empty()) << "cosines and sines go together";
  if (cosines.empty()) return;
  CHECK_SAME_SHAPE(cosines, sines);
  SALAMANDER_CHECK(cosines.dim(0) == heads.dim(0) && 2 * cosines.dim(1) == heads.dim(2) &&
                   cosines.dtype() == StatisticsType(heads.dtype()))
      << "heads " << heads.ShapeString() << ", cosines " << cosines.ShapeString();
}

}  // namespace

absl::Status HeadNormRopeForward(const ExecutionContext& context,
                                 const HeadNormRopeForwardArgs& args) {
  CHECK_SAME_SHAPE(args.input, args.output);
  CheckNorm(args.input, args.weight, args.inverse_rms);
  CheckRotation(args.input, args.cosines, args.sines);
  DISPATCH_BACKEND(HeadNormRopeForward, context, args);
}

absl::Status HeadNormRopeBackward(const ExecutionContext& context,
                                  const HeadNormRopeBackwardArgs& args) {
  CHECK_SAME_SHAPE(args.d_output, args.d_input);
  CheckNorm(args.d_output, args.weight, args.inverse_rms);
  CheckRotation(args.d_output, args.cosines, args.sines);
  if (!args.weight.empty()) {
    CHECK_SAME_SHAPE(args.input, args.d_output);
  }
  if (!args.d_weight.empty()) {
    CHECK_GRADIENT_OF(args.weight, args.d_weight);
  }
  DISPATCH_BACKEND(HeadNormRopeBackward, context, args);
}

}  // namespace salamander
