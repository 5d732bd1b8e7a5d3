// Linear layer by three loops in fp64.
#ifndef TESTS_REFERENCE_LINEAR_H_
#define TESTS_REFERENCE_LINEAR_H_

#include <cmath>
#include <cstdint>

#include "kernels/linear.h"

namespace salamander::reference {

inline void LinearForward(const LinearForwardArgs& args) {
  const int64_t inner = args.weight.dim(1), columns = args.weight.dim(0);
  for (int64_t t = 0; t < args.input.dim(0); ++t) {
    for (int64_t n = 0; n < columns; ++n) {
      double& y = args.output.data<double>()[t * columns + n];
      double sum = args.accumulate ? y : 0.0;
      for (int64_t k = 0; k < inner; ++k) {
        sum += args.input.data<double>()[t * inner + k] * args.weight.data<double>()[n * inner + k];
      }
      y = sum;
    }
  }
}

// Requires: both gradients are wanted.
inline void LinearBackward(const LinearBackwardArgs& args) {
  const int64_t inner = args.weight.dim(1), columns = args.weight.dim(0);
  for (int64_t t = 0; t < args.input.dim(0); ++t) {
    for (int64_t k = 0; k < inner; ++k) {
      double& dx = args.d_input.data<double>()[t * inner + k];
      if (!args.accumulate_input) dx = 0.0;
      for (int64_t n = 0; n < columns; ++n) {
        const double dy = args.d_output.data<double>()[t * columns + n];
        dx += dy * args.weight.data<double>()[n * inner + k];
        args.d_weight.data<double>()[n * inner + k] +=
            dy * args.input.data<double>()[t * inner + k];
      }
    }
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_LINEAR_H_
