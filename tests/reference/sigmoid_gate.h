// The mixers' output gate in fp64. The backward needs no twin: finite differences of the forward
// check it.
#ifndef TESTS_REFERENCE_SIGMOID_GATE_H_
#define TESTS_REFERENCE_SIGMOID_GATE_H_

#include <cmath>
#include <cstdint>

#include "kernels/sigmoid_gate.h"

namespace salamander::reference {

inline void SigmoidGateForward(const SigmoidGateForwardArgs& args) {
  for (int64_t i = 0; i < args.gate.size(); ++i) {
    args.output.data<double>()[i] =
        args.input.data<double>()[i] / (1 + std::exp(-args.gate.data<double>()[i]));
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_SIGMOID_GATE_H_
