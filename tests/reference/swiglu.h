// SwiGLU in fp64. The backward needs no twin: finite differences of the forward check it.
#ifndef TESTS_REFERENCE_SWIGLU_H_
#define TESTS_REFERENCE_SWIGLU_H_

#include <cmath>
#include <cstdint>

#include "kernels/swiglu.h"

namespace salamander::reference {

inline void SwigluForward(const SwigluForwardArgs& args) {
  for (int64_t i = 0; i < args.gate.size(); ++i) {
    const double gate = args.gate.data<double>()[i];
    args.output.data<double>()[i] = gate / (1 + std::exp(-gate)) * args.up.data<double>()[i];
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_SWIGLU_H_
