// Output gate of a mixer: y = x * sigmoid(z).
//   backward  dx = dy * sigmoid(z)      dz = dy * x * sigmoid(z) * (1 - sigmoid(z))
#ifndef KERNELS_SIGMOID_GATE_H_
#define KERNELS_SIGMOID_GATE_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct SigmoidGateForwardArgs {
  TensorView input;   // [T, C] x
  TensorView gate;    // [T, C] z
  TensorView output;  // [T, C]; may alias input
};

struct SigmoidGateBackwardArgs {
  TensorView input, gate;      // [T, C] of the forward
  TensorView d_output;         // [T, C]
  TensorView d_input, d_gate;  // [T, C]; d_input may alias d_output
};

absl::Status SigmoidGateForward(const ExecutionContext& context,
                                const SigmoidGateForwardArgs& args);
absl::Status SigmoidGateBackward(const ExecutionContext& context,
                                 const SigmoidGateBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_SIGMOID_GATE_H_
