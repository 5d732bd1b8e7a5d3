#include <cstdint>

#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

TEST(MemoryGpuTest, ZeroFillsTheTensorAndNothingElse) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32, DType::kInt32, DType::kFloat64}) {
    GpuContext gpu(kTestBytes, kTestBytes);
    const TensorView tensor = gpu.Poisoned(dtype, {70});
    const TestTensor before = gpu.Download(tensor);
    ASSERT_TRUE(Zero(gpu, tensor.Rows(1, 67)).ok());
    const TestTensor after = gpu.Download(tensor);
    EXPECT_TRUE(BitwiseEqual(after.View().Rows(1, 67), TestTensor(dtype, {67}).View()));
    EXPECT_TRUE(BitwiseEqual(after.View().Rows(0, 1), before.View().Rows(0, 1)));
    EXPECT_TRUE(BitwiseEqual(after.View().Rows(68, 2), before.View().Rows(68, 2)));
  }
}

TEST(MemoryGpuTest, CopyKeepsEveryBit) {
  SKIP_WITHOUT_GPU();
  const TestTensor x = TestTensor::Normal(DType::kFloat32, {33, 17}, 1);
  GpuContext gpu(kTestBytes, kTestBytes);
  const TensorView copy = gpu.Poisoned(DType::kFloat32, {33, 17});
  ASSERT_TRUE(Copy(gpu, gpu.Upload(x, DType::kFloat32), copy).ok());
  EXPECT_TRUE(BitwiseEqual(gpu.Download(copy).View(), x.View()));
}

// More than the pinned memory that copies pass through at once.
TEST(MemoryGpuTest, LargeTensorSurvivesTheWayThereAndBack) {
  SKIP_WITHOUT_GPU();
  const TestTensor x = TestTensor::Uniform(DType::kFloat32, {5'000'003}, 1, -1.0, 1.0);
  GpuContext gpu(kTestBytes, kTestBytes);
  EXPECT_TRUE(BitwiseEqual(gpu.Download(gpu.Upload(x, DType::kFloat32)).View(), x.View()));
}

TEST(MemoryGpuTest, AddAddsToWhatIsThere) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const TestTensor source = TestTensor::Normal(dtype, {1001}, 1);
    const TestTensor before = TestTensor::Normal(dtype, {1001}, 2);
    TestTensor expected(dtype, {1001});
    for (int64_t i = 0; i < 1001; ++i) expected.Set(i, before.At(i) + source.At(i));
    GpuContext gpu(kTestBytes, kTestBytes);
    const TensorView sum = gpu.Upload(before, dtype);
    ASSERT_TRUE(Add(gpu, gpu.Upload(source, dtype), sum).ok());
    EXPECT_TRUE(BitwiseEqual(gpu.Download(sum).View(), expected.View()));
  }
}

TEST(MemoryGpuTest, JoinColumnsPutsPartsSideBySideInEachRow) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kParts = 3, kRows = 5;
  for (const Place place : kBothPlaces) {
    for (const int64_t columns : {1, 7, 64, 2056}) {
      const TestTensor parts =
          Rounded(TestTensor::Normal(DType::kFloat64, {kParts * kRows, columns}, 1));
      const TestTensor like(DType::kBFloat16, {kRows, kParts * columns});
      GpuContext gpu(kTestBytes, kTestBytes);
      const TensorView joined = PoisonedRows(gpu, place, like);
      ASSERT_TRUE(JoinColumns(gpu, Upload(gpu, place, parts), kParts, joined).ok());
      const TestTensor actual = gpu.Download(joined);
      for (int64_t i = 0; i < parts.size(); ++i) {
        const int64_t column = i % columns, row = i / columns % kRows, part = i / columns / kRows;
        ASSERT_EQ(actual.At((row * kParts + part) * columns + column), parts.At(i)) << i;
      }
    }
  }
}

TEST(MemoryGpuTest, ConvertRoundsToNearestEvenAndWidensExactly) {
  SKIP_WITHOUT_GPU();
  for (const Place place : kBothPlaces) {
    for (const int64_t size : {1, 7, 8, 2049, 100'003}) {
      TestTensor x = TestTensor::Normal(DType::kFloat32, {size}, 1);
      // Halfway between neighbours, below an even one and above: both go to it.
      x.Set(0, 1.0 + 0x1p-8);
      if (size > 1) x.Set(1, 1.0 + 3 * 0x1p-8);
      const TestTensor rounded = x.As(DType::kBFloat16);
      GpuContext gpu(kTestBytes, kTestBytes);
      const TensorView narrow = PoisonedRows(gpu, place, x);
      const TensorView wide = PoisonedRows(gpu, place, x, DType::kFloat32);
      ASSERT_TRUE(Convert(gpu, Upload(gpu, place, x, DType::kFloat32), narrow).ok());
      ASSERT_TRUE(Convert(gpu, narrow, wide).ok());
      EXPECT_TRUE(BitwiseEqual(gpu.Download(narrow).View(), rounded.View()));
      EXPECT_TRUE(BitwiseEqual(gpu.Download(wide).View(), rounded.As(DType::kFloat32).View()));
    }
  }
}

TEST(MemoryGpuTest, LongStreamIsZeroedCopiedAndConvertedToItsEnd) {
  constexpr int64_t kTensors = 6;  // one in fp32 counts twice
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const TestTensor x = TestTensor::Normal(DType::kFloat32, {kSampledRows, kLongWidth}, 1);
  const TestTensor rounded = x.As(DType::kBFloat16);
  GpuContext gpu(LongTensorBytes(kTensors), kLongScratchBytes);
  const TensorView narrow = PoisonedLong(gpu, x), copy = PoisonedLong(gpu, x);
  const TensorView wide = UploadSample(gpu, x, DType::kFloat32);
  ASSERT_TRUE(Convert(gpu, wide, narrow).ok());
  ASSERT_TRUE(Copy(gpu, narrow, copy).ok());
  EXPECT_TRUE(BitwiseEqual(DownloadSample(gpu, copy).View(), rounded.View()));
  const TensorView widened = PoisonedLong(gpu, x, DType::kFloat32);
  ASSERT_TRUE(Convert(gpu, copy, widened).ok());
  EXPECT_TRUE(
      BitwiseEqual(DownloadSample(gpu, widened).View(), rounded.As(DType::kFloat32).View()));
  ASSERT_TRUE(Zero(gpu, wide).ok());
  EXPECT_TRUE(BitwiseEqual(DownloadSample(gpu, wide).View(),
                           TestTensor(DType::kFloat32, {kSampledRows, kLongWidth}).View()));
}

TEST(MemoryGpuTest, ConvertNamesTheTypesThatItDoesNotKnow) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTestBytes, kTestBytes);
  ExpectUnimplemented(
      Convert(gpu, gpu.Zeros(DType::kFloat64, {3}), gpu.Zeros(DType::kBFloat16, {3})),
      {"float64 to bfloat16", "float32 and bfloat16", "on the CPU"});
}

}  // namespace
}  // namespace salamander
