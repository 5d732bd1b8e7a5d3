// Bound by memory: 6 bytes an element forward, 10 or 12 backward.
#include "kernels/backend_ops.h"
#include "kernels/cuda/rows/pointwise.cuh"
#include "kernels/swiglu.h"

namespace salamander::cuda {
namespace {

struct Forward {
  __device__ static void Apply(const float (&in)[2], float (&out)[1]) {
    const float gate = in[0], up = in[1];
    out[0] = gate * Sigmoid(gate) * up;
  }
};

// d_gate, d_up and, where there are three outputs, y.
struct Backward {
  template <int kOutputs>
  __device__ static void Apply(const float (&in)[3], float (&out)[kOutputs]) {
    const float gate = in[0], up = in[1], dy = in[2];
    const float sigmoid = Sigmoid(gate);
    const float silu = gate * sigmoid;
    out[0] = dy * up * (sigmoid + silu * (1.0F - sigmoid));
    out[1] = dy * silu;
    if constexpr (kOutputs == 3) out[2] = silu * up;
  }
};

}  // namespace

absl::Status SwigluForward(const ExecutionContext& context, const SwigluForwardArgs& args) {
  return LaunchPointwise<Forward>(context, std::array{args.gate, args.up}, std::array{args.output});
}

absl::Status SwigluBackward(const ExecutionContext& context, const SwigluBackwardArgs& args) {
  const std::array inputs{args.gate, args.up, args.d_output};
  if (args.output.empty()) {
    return LaunchPointwise<Backward>(context, inputs, std::array{args.d_gate, args.d_up});
  }
  return LaunchPointwise<Backward>(context, inputs,
                                   std::array{args.d_gate, args.d_up, args.output});
}

}  // namespace salamander::cuda
