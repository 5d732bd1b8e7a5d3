#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/finite_difference.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

TEST(SplitMixTest, GivesThePublishedSequence) {
  SplitMix random(1234567);
  EXPECT_EQ(random.Next(), 6457827717110365317U);
  EXPECT_EQ(random.Next(), 3203168211198807973U);
}

TEST(SplitMixTest, SkipsWhatNextWouldGive) {
  SplitMix skipping(7), drawing(7);
  for (int i = 0; i < 5; ++i) drawing.Next();
  skipping.Skip(5);
  EXPECT_EQ(skipping.Next(), drawing.Next());
}

TEST(TestTensorTest, NormalIsOneStreamHoweverManyThreadsFillIt) {
  const TestTensor x = TestTensor::Normal(DType::kFloat64, {5, 10000}, 9, 3.0);
  SplitMix random(9);
  for (int64_t i = 0; i < x.size(); ++i) ASSERT_EQ(x.At(i), 3.0 * random.Normal()) << i;
}

TEST(TestTensorTest, NormalHasMeanZeroAndTheAskedDeviation) {
  const TestTensor x = TestTensor::Normal(DType::kFloat64, {100, 100}, 5, 2.0);
  const TestTensor ones = TestTensor::Constant(DType::kFloat64, {100, 100}, 1.0);
  EXPECT_NEAR(Dot(x.View(), ones.View()) / 1e4, 0.0, 0.06);
  EXPECT_NEAR(Dot(x.View(), x.View()) / 1e4, 4.0, 0.2);
}

TEST(TestTensorTest, BFloat16RoundsToNearestEven) {
  const TestTensor x = TestTensor::Of(DType::kBFloat16, {3}, {1.0 + 0x1p-8, 1.0 + 0x3p-8, -3.0});
  EXPECT_EQ(x.At(0), 1.0);
  EXPECT_EQ(x.At(1), 1.0 + 0x1p-6);
  EXPECT_EQ(x.At(2), -3.0);
}

TEST(BitwiseEqualTest, SeesOneBitAndTheSignOfZero) {
  const TestTensor a = TestTensor::Of(DType::kFloat32, {2}, {1.0, 0.0});
  TestTensor b = a;
  EXPECT_TRUE(BitwiseEqual(a.View(), b.View()));
  b.Set(1, -0.0);
  EXPECT_FALSE(BitwiseEqual(a.View(), b.View()));
  const TestTensor poisoned = TestTensor::Poisoned(DType::kFloat32, {2});
  EXPECT_TRUE(BitwiseEqual(poisoned.View(), poisoned.View()));
}

TEST(BitwiseEqualTest, TensorsThatAreNotGivenEqualEachOtherAlone) {
  const TestTensor given = TestTensor::Of(DType::kFloat32, {1}, {1.0});
  EXPECT_TRUE(BitwiseEqual(TensorView(), TestTensor().View()));
  EXPECT_FALSE(BitwiseEqual(TensorView(), given.View()));
  EXPECT_FALSE(BitwiseEqual(given.View().Rows(0, 1), TensorView()));
}

TEST(MaxAbsDifferenceTest, NaNIsNotSmall) {
  const TestTensor a = TestTensor::Of(DType::kFloat32, {2}, {1.0, 2.0});
  TestTensor b = a;
  EXPECT_EQ(MaxAbsDifference(a.View(), b.View()), 0.0);
  b.PoisonRows(1, 1);
  EXPECT_TRUE(std::isnan(MaxAbsDifference(a.View(), b.View())));
  EXPECT_TRUE(std::isnan(RelativeRmse(b.View(), a.View())));
}

TEST(FiniteDifferenceTest, AcceptsARightGradientAndRefusesAWrongOne) {
  const TestTensor x = TestTensor::Normal(DType::kFloat64, {3, 4}, 1);
  TestTensor gradient = x;
  for (int64_t i = 0; i < x.size(); ++i) gradient.Set(i, std::cos(x.At(i)));
  const auto forward = [&] {
    double sum = 0;
    for (const double element : x.Elements<double>()) sum += std::sin(element);
    return sum;
  };
  EXPECT_TRUE(MatchesFiniteDifferences(forward, x.View(), gradient.View()));
  gradient.Set(7, gradient.At(7) + 1e-4);
  EXPECT_FALSE(MatchesFiniteDifferences(forward, x.View(), gradient.View()));
  gradient.PoisonRows(1, 1);
  EXPECT_FALSE(MatchesFiniteDifferences(forward, x.View(), gradient.View()));
}

}  // namespace
}  // namespace salamander
