// RMSNorm with its residual addition, by the formulas of kernels/rms_norm.h, in fp64.
#ifndef TESTS_REFERENCE_RMS_NORM_H_
#define TESTS_REFERENCE_RMS_NORM_H_

#include <cmath>
#include <cstdint>

#include "kernels/rms_norm.h"

namespace salamander::reference {

inline void RmsNormForward(const RmsNormForwardArgs& args) {
  const int64_t width = args.residual.dim(1);
  for (int64_t t = 0; t < args.residual.dim(0); ++t) {
    const auto hidden = [&](int64_t c) {
      const double branch = args.branch.empty() ? 0.0 : args.branch.data<double>()[t * width + c];
      return args.residual.data<double>()[t * width + c] + args.branch_scale * branch;
    };
    double squares = 0;
    for (int64_t c = 0; c < width; ++c) squares += hidden(c) * hidden(c);
    const double r = 1 / std::sqrt(squares / static_cast<double>(width) + args.epsilon);
    args.inverse_rms.data<double>()[t] = r;
    for (int64_t c = 0; c < width; ++c) {
      args.output.data<double>()[t * width + c] = hidden(c) * r * args.weight.data<double>()[c];
      if (!args.hidden.empty()) args.hidden.data<double>()[t * width + c] = hidden(c);
    }
  }
}

// Requires: all gradients are wanted and d_hidden is given.
inline void RmsNormBackward(const RmsNormBackwardArgs& args) {
  const int64_t width = args.hidden.dim(1);
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    const double r = args.inverse_rms.data<double>()[t];
    double mean = 0;
    for (int64_t c = 0; c < width; ++c) {
      mean += args.hidden.data<double>()[t * width + c] * args.weight.data<double>()[c] *
              args.d_output.data<double>()[t * width + c] / static_cast<double>(width);
    }
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = t * width + c;
      const double h = args.hidden.data<double>()[i], dy = args.d_output.data<double>()[i];
      const double dh = r * (args.weight.data<double>()[c] * dy - h * r * r * mean) +
                        args.d_hidden.data<double>()[i];
      args.d_residual.data<double>()[i] = dh;
      args.d_branch.data<double>()[i] = args.branch_scale * dh;
      args.d_weight.data<double>()[c] += dy * h * r;
    }
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_RMS_NORM_H_
