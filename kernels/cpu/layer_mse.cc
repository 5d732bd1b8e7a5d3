#include <array>

#include "kernels/backend_ops.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

// Sums over all rows, weighted: of (y - target)^2, target^2, y * target, y^2.
using Sums = std::array<double, 4>;

template <typename Real>
Sums RowSums(const Real* y, const Real* target, int64_t width) {
  double error = 0, targets = 0, products = 0, outputs = 0;
#pragma omp simd reduction(+ : error, targets, products, outputs)
  for (int64_t c = 0; c < width; ++c) {
    const auto a = static_cast<double>(y[c]), b = static_cast<double>(target[c]);
    error += (a - b) * (a - b);
    targets += b * b;
    products += a * b;
    outputs += a * a;
  }
  return {error, targets, products, outputs};
}

template <typename Real>
Sums Run(const ExecutionContext& context, const LayerMseArgs& args) {
  const int64_t width = args.output.row_size();
  const Real* const output = args.output.data<Real>();
  const Real* const target = args.target.data<Real>();
  const float* const weights = DataOrNull<float>(args.row_weights);
  Real* const d_output = DataOrNull<Real>(args.d_output);
  const double scale = args.gradient_scale;
  const auto run_row = [=](int64_t t, double* sums) {
    const double weight = weights == nullptr ? 1.0 : static_cast<double>(weights[t]);
    const Real* const y = output + t * width;
    const Real* const wanted = target + t * width;
    Real* const dy = d_output == nullptr ? nullptr : d_output + t * width;
    if (weight == 0.0) {
      if (dy != nullptr) std::fill_n(dy, width, Real(0));
      return;
    }
    const Sums row = RowSums(y, wanted, width);
    for (size_t i = 0; i < row.size(); ++i) sums[i] += weight * row[i];
    if (dy == nullptr) return;
    const auto factor = static_cast<Real>(2.0 * scale * weight);
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) dy[c] = factor * (y[c] - wanted[c]);
  };
  Sums total = {};
  ParallelRowBlocks(*context.arena, args.output.dim(0), width,
                    ColumnSums<double>{total.data(), static_cast<int64_t>(total.size())},
                    [=](int64_t begin, int64_t end, double* sums) {
                      for (int64_t t = begin; t < end; ++t) run_row(t, sums);
                    });
  return total;
}

}  // namespace

absl::Status LayerMse(const ExecutionContext& context, const LayerMseArgs& args) {
  Sums sums;
  ForReal(args.output.dtype(), [&](auto real) { sums = Run<decltype(real)>(context, args); });
  *args.loss_sum.data<double>() += sums[0];
  if (args.moments.empty()) return absl::OkStatus();
  for (size_t i = 1; i < sums.size(); ++i) args.moments.data<double>()[i - 1] += sums[i];
  return absl::OkStatus();
}

}  // namespace salamander::cpu
