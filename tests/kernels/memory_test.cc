#include "kernels/memory.h"

#include <bit>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

constexpr int64_t kSize = 20000;  // more than one task's share

TEST(ConvertTest, RoundsToNearestBetweenEveryPair) {
  const DType types[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16};
  const TestContext context;
  for (const DType from : types) {
    const TestTensor source = TestTensor::Normal(DType::kFloat64, {kSize}, 1).As(from);
    for (const DType to : types) {
      const TestTensor converted = TestTensor::Poisoned(to, {kSize});
      ASSERT_TRUE(Convert(context, source.View(), converted.View()).ok());
      EXPECT_TRUE(BitwiseEqual(converted.View(), source.As(to).View()))
          << Name(from) << " to " << Name(to);
    }
  }
}

TEST(CopyTest, TheWayThroughTheDeviceChangesNoBit) {
  const TestContext context;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kInt32}) {
    const TestTensor source = dtype == DType::kInt32
                                  ? TestTensor::Integers({kSize}, 1, -1000, 1000)
                                  : TestTensor::Normal(DType::kFloat64, {kSize}, 1).As(dtype);
    const TestTensor device = TestTensor::Poisoned(dtype, {kSize});
    const TestTensor back = TestTensor::Poisoned(dtype, {kSize});
    ASSERT_TRUE(CopyFromHost(context, source.View().raw(), device.View()).ok());
    ASSERT_TRUE(CopyToHost(context, device.View(), back.View().raw()).ok());
    EXPECT_TRUE(BitwiseEqual(back.View(), source.View())) << Name(dtype);
  }
}

TEST(AddTest, AddsToWhatIsThere) {
  const TestContext context;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const TestTensor source = TestTensor::Normal(dtype, {kSize}, 1);
    const TestTensor before = TestTensor::Normal(dtype, {kSize}, 2), sum = before;
    TestTensor expected(dtype, {kSize});
    for (int64_t i = 0; i < kSize; ++i) expected.Set(i, before.At(i) + source.At(i));
    ASSERT_TRUE(Add(context, source.View(), sum.View()).ok());
    EXPECT_TRUE(BitwiseEqual(sum.View(), expected.View()));
  }
}

TEST(JoinColumnsTest, PartsStandSideBySideInEachRow) {
  const TestContext context;
  constexpr int64_t kParts = 3, kRows = 5, kColumns = 7;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    const TestTensor parts =
        TestTensor::Normal(DType::kFloat64, {kParts * kRows, kColumns}, 1).As(dtype);
    const TestTensor joined = TestTensor::Poisoned(dtype, {kRows, kParts, kColumns});
    ASSERT_TRUE(JoinColumns(context, parts.View(), kParts, joined.View()).ok());
    for (int64_t i = 0; i < parts.size(); ++i) {
      const int64_t column = i % kColumns, row = i / kColumns % kRows, part = i / kColumns / kRows;
      EXPECT_EQ(joined.At((row * kParts + part) * kColumns + column), parts.At(i));
    }
  }
}

TEST(FromHostTest, TakesTheValuesIntoTheArena) {
  TestContext context;
  const std::vector<int32_t> values = {3, -1, 7};
  {
    const ArenaScope scope(context.arena());
    const auto tensor = FromHost<int32_t>(context, values);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    ASSERT_EQ(tensor->ShapeString(), "int32[3]");
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(tensor->data<int32_t>()[i], values[static_cast<size_t>(i)]);
    }
    EXPECT_NE(tensor->raw(), values.data());
  }
}

}  // namespace
}  // namespace salamander
