#include "kernels/backend_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace salamander::cpu {
namespace {

template <typename Real>
void Forward(const SigmoidGateForwardArgs& args) {
  const Real* const input = args.input.data<Real>();
  const Real* const gate = args.gate.data<Real>();
  Real* const output = args.output.data<Real>();
  ParallelPieces(args.input.size(), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) output[i] = input[i] * Sigmoid(gate[i]);
  });
}

template <typename Real>
void Backward(const SigmoidGateBackwardArgs& args) {
  const Real* const input = args.input.data<Real>();
  const Real* const gate = args.gate.data<Real>();
  const Real* const d_output = args.d_output.data<Real>();
  Real* const d_input = args.d_input.data<Real>();
  Real* const d_gate = args.d_gate.data<Real>();
  ParallelPieces(args.input.size(), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const Real sigmoid = Sigmoid(gate[i]);
      const Real passed = d_output[i] * sigmoid;
      d_gate[i] = passed * input[i] * (Real(1) - sigmoid);
      d_input[i] = passed;
    }
  });
}

}  // namespace

absl::Status SigmoidGateForward(const ExecutionContext&, const SigmoidGateForwardArgs& args) {
  ForReal(args.output.dtype(), [&](auto real) { Forward<decltype(real)>(args); });
  return absl::OkStatus();
}

absl::Status SigmoidGateBackward(const ExecutionContext&, const SigmoidGateBackwardArgs& args) {
  ForReal(args.input.dtype(), [&](auto real) { Backward<decltype(real)>(args); });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
