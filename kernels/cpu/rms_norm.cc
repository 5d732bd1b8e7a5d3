// A row is read from memory once; its second pass finds it in the first-level cache.
#include "kernels/backend_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row_norm.h"

namespace salamander::cpu {
namespace {

template <typename Real>
void Forward(const RmsNormForwardArgs& args) {
  const int64_t width = args.residual.row_size();
  const Real* const residual = args.residual.data<Real>();
  const Real* const branch = DataOrNull<Real>(args.branch);
  const Real* const weight = args.weight.data<Real>();
  Real* const hidden = DataOrNull<Real>(args.hidden);
  Real* const output = args.output.data<Real>();
  Real* const inverse_rms = args.inverse_rms.data<Real>();
  const auto branch_scale = static_cast<Real>(args.branch_scale);
  const double epsilon = args.epsilon;
  const Real* const squares = DataOrNull<Real>(args.split.sums);
  const int64_t whole_width = args.split.width;
  ParallelFor(args.residual.dim(0), args.residual.size(), [=](int64_t t) {
    const Real* row = residual + t * width;
    if (branch != nullptr) {
      const Real* const added = branch + t * width;
      Real* const sum = hidden + t * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) sum[c] = row[c] + branch_scale * added[c];
      row = sum;
    }
    if (squares == nullptr) {
      inverse_rms[t] = NormaliseRow(row, weight, width, epsilon, output + t * width);
    } else {
      inverse_rms[t] = InverseRms(squares[t], whole_width, epsilon);
      ScaleRow(row, inverse_rms[t], weight, width, output + t * width);
    }
  });
}

template <typename Real>
void Backward(const ExecutionContext& context, const RmsNormBackwardArgs& args) {
  const int64_t width = args.hidden.row_size();
  const Real* const hidden = args.hidden.data<Real>();
  const Real* const weight = args.weight.data<Real>();
  const Real* const inverse_rms = args.inverse_rms.data<Real>();
  const Real* const d_output = args.d_output.data<Real>();
  const Real* const d_hidden = DataOrNull<Real>(args.d_hidden);
  Real* const d_residual = DataOrNull<Real>(args.d_residual);
  Real* const d_branch = DataOrNull<Real>(args.d_branch);
  const Real* const dots = DataOrNull<Real>(args.split.sums);
  const int64_t whole_width = args.split.width;
  const auto branch_scale = static_cast<Real>(args.branch_scale);
  // The branch's gradient is the residual's, scaled; without the latter it is made in place.
  Real* const dx = d_residual != nullptr ? d_residual : d_branch;
  const auto row_backward = [=](int64_t t, Real* d_weight) {
    const int64_t at = t * width;
    NormaliseRowBackward<Real>({.x = hidden + at,
                                .weight = weight,
                                .r = inverse_rms[t],
                                .dy = d_output + at,
                                .dx_from_elsewhere = d_hidden == nullptr ? nullptr : d_hidden + at,
                                .dx = dx == nullptr ? nullptr : dx + at,
                                .d_weight = d_weight,
                                .size = width,
                                .whole_dot = dots == nullptr ? nullptr : dots + t,
                                .whole_size = whole_width});
    if (d_branch == nullptr) return;
#pragma omp simd
    for (int64_t c = at; c < at + width; ++c) d_branch[c] = branch_scale * dx[c];
  };
  ParallelRowBlocks(*context.arena, args.hidden.dim(0), width,
                    ColumnSums<Real>{DataOrNull<Real>(args.d_weight), width},
                    [=](int64_t begin, int64_t end, Real* d_weight) {
                      for (int64_t t = begin; t < end; ++t) row_backward(t, d_weight);
                    });
}

template <typename Real>
void Sums(const RmsNormSumsArgs& args) {
  const int64_t width = args.hidden.row_size();
  const Real* const hidden = args.hidden.data<Real>();
  const Real* const weight = DataOrNull<Real>(args.weight);
  const Real* const d_output = DataOrNull<Real>(args.d_output);
  Real* const sums = args.sums.data<Real>();
  ParallelFor(args.hidden.dim(0), args.hidden.size(), [=](int64_t t) {
    const Real* const row = hidden + t * width;
    sums[t] = d_output == nullptr ? SumOfSquaresOf(row, width)
                                  : WeightedDot(row, weight, d_output + t * width, width);
  });
}

}  // namespace

absl::Status RmsNormForward(const ExecutionContext&, const RmsNormForwardArgs& args) {
  ForReal(args.output.dtype(), [&](auto real) { Forward<decltype(real)>(args); });
  return absl::OkStatus();
}

absl::Status RmsNormBackward(const ExecutionContext& context, const RmsNormBackwardArgs& args) {
  ForReal(args.hidden.dtype(), [&](auto real) { Backward<decltype(real)>(context, args); });
  return absl::OkStatus();
}

absl::Status RmsNormSums(const ExecutionContext&, const RmsNormSumsArgs& args) {
  ForReal(args.hidden.dtype(), [&](auto real) { Sums<decltype(real)>(args); });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
