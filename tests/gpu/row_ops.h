// What the tests of the CUDA ops on rows share: tensors placed where whole vectors can be loaded
// and where they cannot, and bounds on bf16 results.
#ifndef TESTS_GPU_ROW_OPS_H_
#define TESTS_GPU_ROW_OPS_H_

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/gpu/gpu_context.h"
#include "tests/support/test_context.h"

namespace salamander {

using Outputs = std::vector<TestTensor>;

struct RowShape {
  int64_t tokens, width;
};

// One element, one vector, widths that no vector divides, several rows to a block, ragged counts of
// rows, and the widest row that the norms hold.
constexpr RowShape kRowShapes[] = {{1, 1},     {1, 8},    {7, 3},     {7, 17},
                                   {130, 64},  {45, 100}, {300, 256}, {67, 2056},
                                   {33, 4096}, {9, 6000}, {3, 16384}};

// kShifted: every tensor begins one element off, so that no vector load is legal.
enum class Place { kAligned, kShifted };
constexpr Place kBothPlaces[] = {Place::kAligned, Place::kShifted};

inline TensorView WithDimsOf(const TensorView& flat, const TensorView& shape) {
  switch (shape.rank()) {
    case 1:
      return flat;
    case 2:
      return flat.Reshape({shape.dim(0), shape.dim(1)});
    default:
      return flat.Reshape({shape.dim(0), shape.dim(1), shape.dim(2)});
  }
}

// The device's copy of `tensor`; an empty one stays empty.
inline TensorView Upload(GpuContext& gpu, Place place, const TestTensor& tensor,
                         DType dtype = DType::kBFloat16) {
  if (place == Place::kAligned || tensor.View().empty()) return gpu.Upload(tensor, dtype);
  TestTensor shifted(tensor.View().dtype(), {tensor.size() + 1});
  for (int64_t i = 0; i < tensor.size(); ++i) shifted.Set(i + 1, tensor.At(i));
  return WithDimsOf(gpu.Upload(shifted, dtype).Rows(1, tensor.size()), tensor.View());
}

// Of `tensor`'s shape, every bit set.
inline TensorView PoisonedLike(GpuContext& gpu, Place place, const TestTensor& tensor,
                               DType dtype = DType::kBFloat16) {
  const int64_t offset = place == Place::kShifted ? 1 : 0;
  const TensorView flat = gpu.Poisoned(dtype, {tensor.size() + offset});
  return WithDimsOf(flat.Rows(offset, tensor.size()), tensor.View());
}

// bf16 results of fp32 arithmetic over `length` addends, rounded `roundings` times on their way.
// The rms of one rounding is kBFloat16Rounding over many elements; a few may all meet the worst
// case, twice that.
inline double BFloat16Bound(int64_t size, int64_t length, int roundings = 1) {
  const double rounding = (size < 1024 ? 2.0 : 1.0) * kBFloat16Rounding;
  return roundings * rounding + 0x1p-24 * (16.0 + static_cast<double>(length) / 8.0);
}

// fp32 results over `length` addends: some roundings of their own and those of a sum in at least
// eight lanes.
inline double Float32Bound(int64_t length) {
  return 0x1p-24 * (16.0 + static_cast<double>(length) / 8.0);
}

inline void ExpectSameBits(const Outputs& actual, const Outputs& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(BitwiseEqual(actual[i].View(), expected[i].View())) << "output " << i;
  }
}

inline void ExpectWithin(const TestTensor& actual, const TestTensor& expected, double bound) {
  EXPECT_LE(RelativeRmse(actual.View(), expected.View()), bound) << actual.View().ShapeString();
}

// Of a test that goes through all shapes.
constexpr int64_t kTestBytes = int64_t{64} << 20;

}  // namespace salamander

#endif  // TESTS_GPU_ROW_OPS_H_
