// AdamW by the formulas of kernels/adamw.h, in fp64.
#ifndef TESTS_REFERENCE_ADAMW_H_
#define TESTS_REFERENCE_ADAMW_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/adamw.h"

namespace salamander::reference {

inline void AdamWUpdate(const AdamWArgs& args) {
  const auto step = static_cast<double>(args.step);
  const double squares = *args.gradient_squares.data<double>();
  if (!std::isfinite(squares)) return;
  const double clip = args.clip_norm > 0 ? std::min(1.0, args.clip_norm / std::sqrt(squares)) : 1.0;
  for (const AdamWTensor& tensor : args.tensors) {
    for (int64_t i = 0; i < tensor.weight.size(); ++i) {
      double& w = tensor.weight.data<double>()[i];
      double& m = tensor.first_moment.data<double>()[i];
      double& v = tensor.second_moment.data<double>()[i];
      const double g = clip * tensor.gradient.data<double>()[i];
      m = args.beta1 * m + (1 - args.beta1) * g;
      v = args.beta2 * v + (1 - args.beta2) * g * g;
      const double corrected_m = m / (1 - std::pow(args.beta1, step));
      const double corrected_v = v / (1 - std::pow(args.beta2, step));
      w -= tensor.learning_rate *
           (corrected_m / (std::sqrt(corrected_v) + args.epsilon) + tensor.weight_decay * w);
    }
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_ADAMW_H_
