// RMS normalisation of one row, forward and backward: shared by the layers' norm and the heads'.
#ifndef KERNELS_CPU_ROW_NORM_H_
#define KERNELS_CPU_ROW_NORM_H_

#include <cmath>
#include <cstdint>

namespace salamander::cpu {

template <typename Real>
Real SumOfSquaresOf(const Real* x, int64_t size) {
  Real squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) squares += x[i] * x[i];
  return squares;
}

// 1 / sqrt(mean(x^2) + epsilon), of a row of `size` elements.
template <typename Real>
Real InverseRms(Real squares, int64_t size, double epsilon) {
  return Real(1) / std::sqrt(squares / Real(size) + Real(epsilon));
}

// y = x * r * weight
template <typename Real>
void ScaleRow(const Real* x, Real r, const Real* weight, int64_t size, Real* y) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) y[i] = x[i] * r * weight[i];
}

// Returns r = 1 / sqrt(mean(x^2) + epsilon) and writes y = x * r * weight.
template <typename Real>
Real NormaliseRow(const Real* x, const Real* weight, int64_t size, double epsilon, Real* y) {
  const Real r = InverseRms(SumOfSquaresOf(x, size), size, epsilon);
  ScaleRow(x, r, weight, size, y);
  return r;
}

// sum of x * weight * dy
template <typename Real>
Real WeightedDot(const Real* x, const Real* weight, const Real* dy, int64_t size) {
  Real dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < size; ++i) dot += x[i] * weight[i] * dy[i];
  return dot;
}

template <typename Real>
struct NormaliseRowGradient {
  const Real* x;
  const Real* weight;
  Real r;
  const Real* dy;
  const Real* dx_from_elsewhere;  // added to dx; or null
  Real* dx;                       // may be dy or dx_from_elsewhere; or null: not wanted
  Real* d_weight;                 // added to; or null
  int64_t size;
  const Real* whole_dot = nullptr;  // WeightedDot over all parts of a row that is split; or null
  int64_t whole_size = 0;           // of such a row
};

template <typename Real>
void NormaliseRowBackward(const NormaliseRowGradient<Real>& row) {
  const Real* const x = row.x;
  const Real* const weight = row.weight;
  const Real* const dy = row.dy;
  const Real* const dx_from_elsewhere = row.dx_from_elsewhere;
  Real* const dx = row.dx;
  Real* const d_weight = row.d_weight;
  const Real r = row.r;
  const int64_t size = row.size;
  if (d_weight != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) d_weight[i] += dy[i] * x[i] * r;
  }
  if (dx == nullptr) return;
  const bool is_split = row.whole_dot != nullptr;
  const Real dot = is_split ? *row.whole_dot : WeightedDot(x, weight, dy, size);
  const Real pull = dot * r * r / Real(is_split ? row.whole_size : size);
  if (dx_from_elsewhere != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      dx[i] = dx_from_elsewhere[i] + r * (weight[i] * dy[i] - x[i] * pull);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) dx[i] = r * (weight[i] * dy[i] - x[i] * pull);
  }
}

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_ROW_NORM_H_
