// The layers' squared error in fp64, with all sums.
#ifndef TESTS_REFERENCE_LAYER_MSE_H_
#define TESTS_REFERENCE_LAYER_MSE_H_

#include <cmath>
#include <cstdint>

#include "kernels/layer_mse.h"

namespace salamander::reference {

inline void LayerMse(const LayerMseArgs& args) {
  const int64_t width = args.output.dim(1);
  *args.loss_sum = *args.target_sum = *args.product_sum = *args.output_sum = 0;
  for (int64_t i = 0; i < args.output.size(); ++i) {
    const double weight =
        args.row_weights.empty() ? 1.0 : args.row_weights.data<float>()[i / width];
    args.d_output.data<double>()[i] = 0;
    if (weight == 0) continue;
    const double y = args.output.data<double>()[i], target = args.target.data<double>()[i];
    args.d_output.data<double>()[i] = 2 * args.gradient_scale * weight * (y - target);
    *args.loss_sum += weight * (y - target) * (y - target);
    *args.target_sum += weight * target * target;
    *args.product_sum += weight * y * target;
    *args.output_sum += weight * y * y;
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_LAYER_MSE_H_
