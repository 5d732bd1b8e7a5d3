// SwiGLU's pointwise part: y = silu(gate) * up, silu(x) = x * sigmoid(x). Source: arXiv 2002.05202.
//   backward  d_gate = dy * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate)))
//             d_up = dy * silu(gate)
#ifndef KERNELS_SWIGLU_H_
#define KERNELS_SWIGLU_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct SwigluForwardArgs {
  TensorView gate, up;  // [T, F]
  TensorView output;    // [T, F]
};

struct SwigluBackwardArgs {
  TensorView gate, up;      // [T, F]
  TensorView d_output;      // [T, F]
  TensorView d_gate, d_up;  // [T, F]; d_up may alias d_output; d_gate may alias gate
  TensorView output;        // [T, F] receives y again where the caller did not keep it; or empty
};

absl::Status SwigluForward(const ExecutionContext& context, const SwigluForwardArgs& args);
absl::Status SwigluBackward(const ExecutionContext& context, const SwigluBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_SWIGLU_H_
