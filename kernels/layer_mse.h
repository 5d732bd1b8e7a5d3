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
  TensorView d_output;  // [T, C], overwritten; or empty
  double* loss_sum = nullptr;
  double* target_sum = nullptr;   // sum of w_t * target^2, for a relative error; or null
  double* product_sum = nullptr;  // sum of w_t * y * target, and
  double* output_sum = nullptr;   // of w_t * y^2: with target_sum they give the cosine; or null
};

// A row of weight zero (padding) is not read, and its gradient is zero. Sums are fp64 in a fixed
// order.
absl::Status LayerMse(const ExecutionContext& context, const LayerMseArgs& args);

}  // namespace salamander

#endif  // KERNELS_LAYER_MSE_H_
