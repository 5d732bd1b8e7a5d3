// The layers' squared error in fp64, with all sums and the gradient.
#ifndef TESTS_REFERENCE_LAYER_MSE_H_
#define TESTS_REFERENCE_LAYER_MSE_H_

#include <cmath>
#include <cstdint>

#include "kernels/layer_mse.h"

namespace salamander::reference {

inline void LayerMse(const LayerMseArgs& args) {
  const int64_t width = args.output.dim(1);
  double& loss_sum = *args.loss_sum.data<double>();
  double* const moments = args.moments.data<double>();
  for (int64_t i = 0; i < args.output.size(); ++i) {
    const double weight =
        args.row_weights.empty() ? 1.0 : args.row_weights.data<float>()[i / width];
    args.d_output.data<double>()[i] = 0;
    if (weight == 0) continue;
    const double y = args.output.data<double>()[i], target = args.target.data<double>()[i];
    args.d_output.data<double>()[i] = 2 * args.gradient_scale * weight * (y - target);
    loss_sum += weight * (y - target) * (y - target);
    moments[0] += weight * target * target;
    moments[1] += weight * y * target;
    moments[2] += weight * y * y;
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_LAYER_MSE_H_
