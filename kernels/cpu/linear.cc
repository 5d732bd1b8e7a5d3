// Linear layers by BLAS: row-major [T, Cin] x [Cout, Cin]^T.
#include <cblas.h>

#include "kernels/cpu/cpu_ops.h"

namespace salamander::cpu {
namespace {

struct Product {
  CBLAS_TRANSPOSE transpose_a, transpose_b;
  int64_t rows, columns, inner;  // of the result and the sum
  const TensorView& a;
  const TensorView& b;
  const TensorView& result;
  bool accumulate;
};

int LeadingDimension(const TensorView& view) {
  return static_cast<int>(view.row_size());
}

void Gemm(const Product& p) {
  const double beta = p.accumulate ? 1.0 : 0.0;
  const auto m = static_cast<int>(p.rows), n = static_cast<int>(p.columns),
             k = static_cast<int>(p.inner);
  if (p.result.dtype() == DType::kFloat64) {
    cblas_dgemm(CblasRowMajor, p.transpose_a, p.transpose_b, m, n, k, 1.0, p.a.data<double>(),
                LeadingDimension(p.a), p.b.data<double>(), LeadingDimension(p.b), beta,
                p.result.data<double>(), LeadingDimension(p.result));
  } else {
    cblas_sgemm(CblasRowMajor, p.transpose_a, p.transpose_b, m, n, k, 1.0F, p.a.data<float>(),
                LeadingDimension(p.a), p.b.data<float>(), LeadingDimension(p.b),
                static_cast<float>(beta), p.result.data<float>(), LeadingDimension(p.result));
  }
}

}  // namespace

absl::Status LinearForward(const ExecutionContext&, const LinearForwardArgs& args) {
  Gemm({CblasNoTrans, CblasTrans, args.input.dim(0), args.weight.dim(0), args.weight.dim(1),
        args.input, args.weight, args.output, args.accumulate});
  return absl::OkStatus();
}

absl::Status LinearBackward(const ExecutionContext&, const LinearBackwardArgs& args) {
  const int64_t tokens = args.d_output.dim(0);
  if (!args.d_input.empty()) {
    Gemm({CblasNoTrans, CblasNoTrans, tokens, args.weight.dim(1), args.weight.dim(0), args.d_output,
          args.weight, args.d_input, args.accumulate_input});
  }
  if (!args.d_weight.empty()) {
    Gemm({CblasTrans, CblasNoTrans, args.d_weight.dim(0), args.d_weight.dim(1), tokens,
          args.d_output, args.input, args.d_weight, true});
  }
  return absl::OkStatus();
}

}  // namespace salamander::cpu
