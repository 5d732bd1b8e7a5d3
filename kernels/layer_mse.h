// Alignment loss of one layer: the squared error between a candidate mixer's output and its
// teacher's.
//   loss = sum over rows t and channels c of w_t * (y_tc - target_tc)^2
//   d_output_tc = 2 * gradient_scale * w_t * (y_tc - target_tc)
#ifndef KERNELS_LAYER_MSE_H_
#define KERNELS_LAYER_MSE_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct LayerMseArgs {
  TensorView output;       // [T, C]
  TensorView target;       // [T, C]
  TensorView row_weights;  // [T] fp32, or empty: all one
  double gradient_scale = 1.0;
  TensorView d_output;  // [T, C], overwritten, may alias output; or empty
  TensorView loss_sum;  // [1] fp64, added to
  TensorView moments;   // [3] fp64 or empty: the sums of w_t * target^2, w_t * y * target and
                        // w_t * y^2 are added to it; with the loss they give a relative error and
                        // a cosine
};

// A row of weight zero (padding) is not read, and its gradient is zero. Sums are fp64 in a fixed
// order.
absl::Status LayerMse(const ExecutionContext& context, const LayerMseArgs& args);

}  // namespace salamander

#endif  // KERNELS_LAYER_MSE_H_
