#include "kernels/backend_ops.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

template <typename Real>
MatrixOperand<Real> Stored(const TensorView& view) {
  return {.data = view.data<Real>(), .stride = view.row_size()};
}

template <typename Real>
MatrixOperand<Real> Transposed(const TensorView& view) {
  return {.data = view.data<Real>(), .stride = view.row_size(), .transposed = true};
}

template <typename Real>
void MultiplyInto(const TensorView& result, bool accumulate, int64_t inner,
                  const MatrixOperand<Real>& a, const MatrixOperand<Real>& b) {
  Multiply(MatrixProduct<Real>{.rows = result.dim(0),
                               .columns = result.row_size(),
                               .inner = inner,
                               .a = a,
                               .b = b,
                               .result = result.data<Real>(),
                               .result_stride = result.row_size(),
                               .beta = accumulate ? Real(1) : Real(0)});
}

template <typename Real>
void Backward(const LinearBackwardArgs& args) {
  if (!args.d_input.empty()) {
    MultiplyInto(args.d_input, args.accumulate_input, args.d_output.row_size(),
                 Stored<Real>(args.d_output), Stored<Real>(args.weight));
  }
  if (!args.d_weight.empty()) {
    MultiplyInto(args.d_weight, true, args.d_output.dim(0), Transposed<Real>(args.d_output),
                 Stored<Real>(args.input));
  }
}

}  // namespace

absl::Status LinearForward(const ExecutionContext&, const LinearForwardArgs& args) {
  ForReal(args.output.dtype(), [&](auto real) {
    using Real = decltype(real);
    MultiplyInto(args.output, args.accumulate, args.input.row_size(), Stored<Real>(args.input),
                 Transposed<Real>(args.weight));
  });
  return absl::OkStatus();
}

absl::Status LinearBackward(const ExecutionContext&, const LinearBackwardArgs& args) {
  ForReal(args.d_output.dtype(), [&](auto real) { Backward<decltype(real)>(args); });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
