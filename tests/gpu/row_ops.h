// What the tests of the CUDA ops on rows share: tensors placed where whole vectors can be loaded,
// where they cannot, and in a long stream; bounds on bf16 results; the run that they all make.
#ifndef TESTS_GPU_ROW_OPS_H_
#define TESTS_GPU_ROW_OPS_H_

#include <cstdint>
#include <initializer_list>
#include <vector>

#include <gtest/gtest.h>

#include "tests/gpu/gpu_context.h"
#include "tests/gpu/long_stream.h"
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

// The sample of a long stream.
constexpr RowShape kLongShape = {kSampledRows, kLongWidth};

// kShifted: every tensor begins one element off, so that no vector load is legal. kLong: the rows
// are a sample of a long stream's.
enum class Place { kAligned, kShifted, kLong };
constexpr Place kBothPlaces[] = {Place::kAligned, Place::kShifted};  // of tensors that are short

// Of a test that goes through all shapes.
constexpr int64_t kTestBytes = int64_t{64} << 20;

// The device's copy of `tensor`, which is none of the stream's rows; an empty one stays empty.
inline TensorView Upload(GpuContext& gpu, Place place, const TestTensor& tensor,
                         DType dtype = DType::kBFloat16) {
  if (place != Place::kShifted || tensor.View().empty()) return gpu.Upload(tensor, dtype);
  TestTensor shifted(tensor.View().dtype(), {tensor.size() + 1});
  for (int64_t i = 0; i < tensor.size(); ++i) shifted.Set(i + 1, tensor.At(i));
  return InRowsLike(gpu.Upload(shifted, dtype).Rows(1, tensor.size()), tensor.View());
}

// The same of rows of the stream.
inline TensorView UploadRows(GpuContext& gpu, Place place, const TestTensor& rows,
                             DType dtype = DType::kBFloat16) {
  if (place != Place::kLong || rows.View().empty()) return Upload(gpu, place, rows, dtype);
  return UploadSample(gpu, rows, dtype);
}

// In rows like those of `rows`, every bit set.
inline TensorView PoisonedRows(GpuContext& gpu, Place place, const TestTensor& rows,
                               DType dtype = DType::kBFloat16) {
  if (place == Place::kLong) return PoisonedLong(gpu, rows, dtype);
  const int64_t offset = place == Place::kShifted ? 1 : 0;
  const TensorView flat = gpu.Poisoned(dtype, {rows.size() + offset});
  return InRowsLike(flat.Rows(offset, rows.size()), rows.View());
}

inline TestTensor DownloadRows(GpuContext& gpu, Place place, const TensorView& rows) {
  return place == Place::kLong ? DownloadSample(gpu, rows) : gpu.Download(rows);
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

// The same in fp64.
inline double Float64Bound(int64_t length) {
  return 0x1p-53 * (16.0 + static_cast<double>(length) / 8.0);
}

inline void ExpectSameBits(const Outputs& actual, const Outputs& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(BitwiseEqual(actual[i].View(), expected[i].View())) << "output " << i;
  }
}

// Each output within its bound.
inline void ExpectWithin(const Outputs& actual, const Outputs& expected,
                         const std::vector<double>& bounds) {
  ASSERT_EQ(actual.size(), expected.size());
  ASSERT_EQ(actual.size(), bounds.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_LE(RelativeRmse(actual[i].View(), expected[i].View()), bounds[i])
        << "output " << i << ", " << actual[i].View().ShapeString();
  }
}

// The rows before and after `row` have the same bits in both.
inline void ExpectOtherRowsSame(const Outputs& actual, const Outputs& expected, int64_t row) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const TensorView a = actual[i].View(), e = expected[i].View();
    const int64_t behind = e.dim(0) - row - 1;
    EXPECT_TRUE(BitwiseEqual(a.Rows(0, row), e.Rows(0, row))) << "output " << i;
    EXPECT_TRUE(BitwiseEqual(a.Rows(row + 1, behind), e.Rows(row + 1, behind))) << "output " << i;
  }
}

// `run(gpu, place)` makes outputs within their bounds at both places, and twice the same bits.
template <typename Run>
void ExpectMatchesAndRepeats(const Run& run, const Outputs& expected,
                             const std::vector<double>& bounds) {
  for (const Place place : kBothPlaces) {
    SCOPED_TRACE(place == Place::kAligned ? "aligned" : "shifted");
    GpuContext gpu(kTestBytes, kTestBytes);
    const Outputs actual = run(gpu, place);
    ExpectWithin(actual, expected, bounds);
    ExpectSameBits(run(gpu, place), actual);
  }
}

// Of a sample of a long stream, in the memory of `tensors` tensors.
template <typename Run>
void ExpectMatchesInLongStream(const Run& run, int64_t tensors, const Outputs& expected,
                               const std::vector<double>& bounds) {
  GpuContext gpu(LongTensorBytes(tensors), kLongScratchBytes);
  ExpectWithin(run(gpu, Place::kLong), expected, bounds);
}

}  // namespace salamander

#endif  // TESTS_GPU_ROW_OPS_H_
