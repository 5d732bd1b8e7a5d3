// Tensors for tests: they own their elements, are filled from a seed with the same bits on every
// machine (no libm, no <random> distributions), and are compared in three ways: bit by bit, by the
// largest difference, by relative root-mean-square error.
#ifndef TESTS_SUPPORT_RANDOM_TENSOR_H_
#define TESTS_SUPPORT_RANDOM_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <gtest/gtest.h>

#include "absl/types/span.h"

#include "kernels/base/tensor_view.h"

namespace salamander {

// splitmix64 (Steele, Lea, Flood 2014): every seed, 0 too, starts an independent stream.
class SplitMix {
 public:
  explicit SplitMix(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  void Skip(int64_t count);                    // as if Next() had been called so often
  double Uniform();                            // [0, 1)
  double Normal();                             // mean 0, variance 1, |x| <= 6
  int64_t Integer(int64_t low, int64_t high);  // [low, high]

 private:
  uint64_t state_;
};

class TestTensor {
 public:
  using Dims = std::initializer_list<int64_t>;

  TestTensor() = default;              // View() is the empty view
  TestTensor(DType dtype, Dims dims);  // zeros

  static TestTensor Constant(DType dtype, Dims dims, double value);
  static TestTensor Poisoned(DType dtype, Dims dims);  // NaN; the lowest integer for int32
  static TestTensor Normal(DType dtype, Dims dims, uint64_t seed, double deviation = 1.0);
  static TestTensor Uniform(DType dtype, Dims dims, uint64_t seed, double low, double high);
  static TestTensor Integers(Dims dims, uint64_t seed, int64_t low, int64_t high);  // [low, high]
  static TestTensor Of(DType dtype, Dims dims, std::initializer_list<double> values);

  // The view stays valid while the tensor lives; a copied tensor has elements of its own.
  TensorView View() const;
  TestTensor As(DType dtype) const;  // a copy with every element converted

  int64_t size() const { return View().size(); }
  double At(int64_t index) const;
  void Set(int64_t index, double value);
  void PoisonRows(int64_t begin, int64_t count);
  template <typename Element>
  absl::Span<Element> Elements() const {
    return {View().data<Element>(), static_cast<size_t>(size())};
  }

 private:
  DType dtype_ = DType::kFloat32;
  std::vector<int64_t> dims_;
  std::vector<std::byte> bytes_;
};

// Any dtype read and written as a double; bf16 rounds to nearest even.
double ElementAt(const TensorView& view, int64_t index);
void SetElement(const TensorView& view, int64_t index, double value);

// Equal bits (so NaN equals the same NaN, and 0 differs from -0); names the first difference.
testing::AssertionResult BitwiseEqual(const TensorView& actual, const TensorView& expected);

// NaN where any element of either is NaN.
double MaxAbsDifference(const TensorView& actual, const TensorView& expected);

// rms(actual - expected) / rms(expected); 0 where both are zero everywhere.
double RelativeRmse(const TensorView& actual, const TensorView& expected);

// sum_i a_i b_i in double.
double Dot(const TensorView& a, const TensorView& b);

}  // namespace salamander

#endif  // TESTS_SUPPORT_RANDOM_TENSOR_H_
