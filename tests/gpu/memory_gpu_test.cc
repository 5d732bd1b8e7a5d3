#include <cstdint>
#include <string>

#include <gmock/gmock.h>
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
      const TensorView narrow = PoisonedLike(gpu, place, x);
      const TensorView wide = PoisonedLike(gpu, place, x, DType::kFloat32);
      ASSERT_TRUE(Convert(gpu, Upload(gpu, place, x, DType::kFloat32), narrow).ok());
      ASSERT_TRUE(Convert(gpu, narrow, wide).ok());
      EXPECT_TRUE(BitwiseEqual(gpu.Download(narrow).View(), rounded.View()));
      EXPECT_TRUE(BitwiseEqual(gpu.Download(wide).View(), rounded.As(DType::kFloat32).View()));
    }
  }
}

TEST(MemoryGpuTest, ConvertNamesTheTypesThatItDoesNotKnow) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTestBytes, kTestBytes);
  const absl::Status status =
      Convert(gpu, gpu.Zeros(DType::kFloat64, {3}), gpu.Zeros(DType::kBFloat16, {3}));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("float64 to bfloat16"));
}

}  // namespace
}  // namespace salamander
