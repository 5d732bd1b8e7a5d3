// Per-head RMSNorm and rotary embedding, by the formulas of kernels/head_norm_rope.h, in fp64. The
// backward needs no twin: finite differences of the forward check it.
#ifndef TESTS_REFERENCE_HEAD_NORM_ROPE_H_
#define TESTS_REFERENCE_HEAD_NORM_ROPE_H_

#include <cmath>
#include <cstdint>

#include "kernels/head_norm_rope.h"

namespace salamander::reference {

inline void HeadNormRopeForward(const HeadNormRopeForwardArgs& args) {
  const int64_t heads = args.input.dim(1), dim = args.input.dim(2);
  for (int64_t row = 0; row < args.input.dim(0) * heads; ++row) {
    const double* const x = args.input.data<double>() + row * dim;
    double* const y = args.output.data<double>() + row * dim;
    double r = 1;
    if (!args.weight.empty()) {
      double squares = 0;
      for (int64_t d = 0; d < dim; ++d) squares += x[d] * x[d];
      r = 1 / std::sqrt(squares / static_cast<double>(dim) + args.epsilon);
      args.inverse_rms.data<double>()[row] = r;
    }
    const auto normed = [&](int64_t d) {
      return args.weight.empty() ? x[d] : x[d] * r * args.weight.data<double>()[d];
    };
    for (int64_t d = 0; d < dim; ++d) {
      y[d] = normed(d);
      if (args.cosines.empty()) continue;
      const bool first = d < dim / 2;
      const int64_t angle = row / heads * (dim / 2) + d % (dim / 2);
      const double turned = first ? -normed(d + dim / 2) : normed(d - dim / 2);
      y[d] = normed(d) * args.cosines.data<double>()[angle] +
             turned * args.sines.data<double>()[angle];
    }
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_HEAD_NORM_ROPE_H_
