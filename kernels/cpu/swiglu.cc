#include "kernels/backend_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace salamander::cpu {
namespace {

template <typename Real>
void Forward(const SwigluForwardArgs& args) {
  const Real* const gate = args.gate.data<Real>();
  const Real* const up = args.up.data<Real>();
  Real* const output = args.output.data<Real>();
  ParallelPieces(args.gate.size(), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) output[i] = Silu(gate[i]) * up[i];
  });
}

// kWithOutput: y is written as well.
template <typename Real, bool kWithOutput>
void Backward(const SwigluBackwardArgs& args) {
  const Real* const gate = args.gate.data<Real>();
  const Real* const up = args.up.data<Real>();
  const Real* const d_output = args.d_output.data<Real>();
  Real* const d_gate = args.d_gate.data<Real>();
  Real* const d_up = args.d_up.data<Real>();
  Real* const output = DataOrNull<Real>(args.output);
  ParallelPieces(args.gate.size(), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const Real g = gate[i], u = up[i], dy = d_output[i];
      const Real sigmoid = Sigmoid(g);
      const Real silu = g * sigmoid;
      d_gate[i] = dy * u * (sigmoid + silu * (Real(1) - sigmoid));
      d_up[i] = dy * silu;
      if constexpr (kWithOutput) output[i] = silu * u;
    }
  });
}

}  // namespace

absl::Status SwigluForward(const ExecutionContext&, const SwigluForwardArgs& args) {
  ForReal(args.output.dtype(), [&](auto real) { Forward<decltype(real)>(args); });
  return absl::OkStatus();
}

absl::Status SwigluBackward(const ExecutionContext&, const SwigluBackwardArgs& args) {
  ForReal(args.gate.dtype(), [&](auto real) {
    using Real = decltype(real);
    args.output.empty() ? Backward<Real, false>(args) : Backward<Real, true>(args);
  });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
