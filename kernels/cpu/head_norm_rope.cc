// One head of one token at a time: its D elements stay in the first-level cache between the halves.
#include "kernels/backend_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row_norm.h"

namespace salamander::cpu {
namespace {

template <typename Real>
struct Rotation {
  const Real* cosines;  // [T, D/2]; null: none
  const Real* sines;    // [T, D/2]
  int64_t half;         // D/2
  Real direction;       // 1, or -1 to turn back, which is the transpose
};

// y = x turned by the angles of token t. y may be x.
template <typename Real>
void Rotate(const Rotation<Real>& rotation, int64_t t, const Real* x, Real* y) {
  const int64_t half = rotation.half;
  const Real* const cosines = rotation.cosines + t * half;
  const Real* const sines = rotation.sines + t * half;
#pragma omp simd
  for (int64_t d = 0; d < half; ++d) {
    const Real first = x[d], second = x[d + half];
    const Real cosine = cosines[d], sine = rotation.direction * sines[d];
    y[d] = first * cosine - second * sine;
    y[d + half] = second * cosine + first * sine;
  }
}

template <typename Real>
void Forward(const HeadNormRopeForwardArgs& args) {
  const int64_t heads = args.input.dim(1), dim = args.input.dim(2);
  const Real* const input = args.input.data<Real>();
  const Real* const weight = DataOrNull<Real>(args.weight);
  const Rotation<Real> rotation{DataOrNull<Real>(args.cosines), DataOrNull<Real>(args.sines),
                                dim / 2, 1};
  Real* const output = args.output.data<Real>();
  Real* const inverse_rms = DataOrNull<Real>(args.inverse_rms);
  const double epsilon = args.epsilon;
  ParallelFor(args.input.dim(0), args.input.size(), [=](int64_t t) {
    for (int64_t row = t * heads; row < (t + 1) * heads; ++row) {
      const Real* x = input + row * dim;
      Real* const y = output + row * dim;
      if (weight != nullptr) {
        inverse_rms[row] = NormaliseRow(x, weight, dim, epsilon, y);
        x = y;
      }
      if (rotation.cosines != nullptr) {
        Rotate(rotation, t, x, y);
      } else if (x != y) {
        std::copy_n(x, dim, y);
      }
    }
  });
}

template <typename Real>
void Backward(const ExecutionContext& context, const HeadNormRopeBackwardArgs& args) {
  const int64_t heads = args.d_output.dim(1), dim = args.d_output.dim(2);
  const Real* const input = DataOrNull<Real>(args.input);
  const Real* const weight = DataOrNull<Real>(args.weight);
  const Rotation<Real> rotation{DataOrNull<Real>(args.cosines), DataOrNull<Real>(args.sines),
                                dim / 2, -1};
  const Real* const inverse_rms = DataOrNull<Real>(args.inverse_rms);
  const Real* const d_output = args.d_output.data<Real>();
  Real* const d_input = args.d_input.data<Real>();
  const auto row_backward = [=](int64_t t, int64_t row, Real* d_weight) {
    const Real* dy = d_output + row * dim;
    Real* const dx = d_input + row * dim;
    if (rotation.cosines != nullptr) {
      Rotate(rotation, t, dy, dx);
      dy = dx;
    }
    if (weight != nullptr) {
      NormaliseRowBackward<Real>({.x = input + row * dim,
                                  .weight = weight,
                                  .r = inverse_rms[row],
                                  .dy = dy,
                                  .dx_from_elsewhere = nullptr,
                                  .dx = dx,
                                  .d_weight = d_weight,
                                  .size = dim});
    } else if (dy != dx) {
      std::copy_n(dy, dim, dx);
    }
  };
  ParallelRowBlocks(*context.arena, args.d_output.dim(0), heads * dim,
                    ColumnSums<Real>{DataOrNull<Real>(args.d_weight), dim},
                    [=](int64_t begin, int64_t end, Real* d_weight) {
                      for (int64_t t = begin; t < end; ++t) {
                        for (int64_t row = t * heads; row < (t + 1) * heads; ++row) {
                          row_backward(t, row, d_weight);
                        }
                      }
                    });
}

}  // namespace

absl::Status HeadNormRopeForward(const ExecutionContext&, const HeadNormRopeForwardArgs& args) {
  ForReal(args.output.dtype(), [&](auto real) { Forward<decltype(real)>(args); });
  return absl::OkStatus();
}

absl::Status HeadNormRopeBackward(const ExecutionContext& context,
                                  const HeadNormRopeBackwardArgs& args) {
  ForReal(args.d_output.dtype(), [&](auto real) { Backward<decltype(real)>(context, args); });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
