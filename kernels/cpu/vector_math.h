// Exponential and logistic functions that a compiler can vectorise: inline, without branches, calls
// or tables, so that a plain loop (or one under `#pragma omp simd`) becomes vector code.
//   exp(x) = 2^n * p(r), n = round(x / ln 2), r = x - n ln 2 in [-ln(2)/2, ln(2)/2]
// The polynomial p is within 0.2 (fp32) and 0.02 (fp64) units of rounding of exp(r); with the
// rounding of its evaluation results are within 1.1 units in the last place. Results below the
// smallest normal number are zero, results above the largest are infinity, NaN stays NaN.
#ifndef KERNELS_CPU_VECTOR_MATH_H_
#define KERNELS_CPU_VECTOR_MATH_H_

#include <bit>
#include <cstdint>
#include <limits>

namespace salamander::cpu {

inline float Exp(float x) {
  constexpr float kLargest = 88.72284F;    // last x with a finite result
  constexpr float kSmallest = -87.33654F;  // last x with a normal result
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  constexpr float kLn2High = 0.693359375F;  // nine bits, so that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4F;
  const float shifted = x * 1.44269504F + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  // Interpolates (exp(r) - 1 - r) / r^2 in Chebyshev nodes.
  float q = 1.392620336e-3F;
  q = q * r + 8.363194882e-3F;
  q = q * r + 4.166655450e-2F;
  q = q * r + 1.666657689e-1F;
  q = q * r + 5.0e-1F;
  const float p = 1.0F + (r + r * r * q);
  // Adds n to p's exponent. Where that leaves the range, one of the two selections below replaces
  // it.
  const float scaled =
      std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
  const float finite = x <= kLargest ? scaled : x + std::numeric_limits<float>::infinity();
  return x < kSmallest ? 0.0F : finite;
}

inline double Exp(double x) {
  constexpr double kLargest = 709.782712893384;
  constexpr double kSmallest = -708.3964185322641;
  constexpr double kRound = 6755399441055744.0;   // 1.5 * 2^52
  constexpr double kLn2High = 0.693145751953125;  // sixteen bits
  constexpr double kLn2Low = 1.42860682030941723212e-6;
  const double shifted = x * 1.44269504088896340736 + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double q = 1.0 / 6227020800.0;  // Taylor: the remainder r^14 / 14! is below 5e-18
  q = q * r + 1.0 / 479001600.0;
  q = q * r + 1.0 / 39916800.0;
  q = q * r + 1.0 / 3628800.0;
  q = q * r + 1.0 / 362880.0;
  q = q * r + 1.0 / 40320.0;
  q = q * r + 1.0 / 5040.0;
  q = q * r + 1.0 / 720.0;
  q = q * r + 1.0 / 120.0;
  q = q * r + 1.0 / 24.0;
  q = q * r + 1.0 / 6.0;
  q = q * r + 0.5;
  const double p = 1.0 + (r + r * r * q);
  const double scaled =
      std::bit_cast<double>(std::bit_cast<uint64_t>(p) + (std::bit_cast<uint64_t>(shifted) << 52));
  const double finite = x <= kLargest ? scaled : x + std::numeric_limits<double>::infinity();
  return x < kSmallest ? 0.0 : finite;
}

template <typename Real>
inline Real Sigmoid(Real x) {
  return Real(1) / (Real(1) + Exp(-x));
}

template <typename Real>
inline Real Silu(Real x) {
  return x * Sigmoid(x);
}

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_VECTOR_MATH_H_
