#include "trainer/run/learning_rate.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

using testing::DoubleNear;
using testing::Pointwise;

// The rates of a whole stage.
std::vector<double> Rates(const ScheduleConfig& schedule, int64_t steps) {
  std::vector<double> rates;
  for (int64_t step = 0; step < steps; ++step)
    rates.push_back(LearningRateAt(schedule, step, steps));
  return rates;
}

auto AreNearly(const std::vector<double>& expected) {
  return Pointwise(testing::DoubleEq(), expected);
}

TEST(LearningRateTest, IsConstantWhereNothingElseIsSaid) {
  EXPECT_THAT(Rates({.peak = 0.5}, 3), AreNearly({0.5, 0.5, 0.5}));
}

TEST(LearningRateTest, WarmsUpToThePeakAndMovesAtTheFirstStep) {
  EXPECT_THAT(Rates({.peak = 0.8, .warmup_steps = 4}, 6),
              AreNearly({0.2, 0.4, 0.6, 0.8, 0.8, 0.8}));
}

TEST(LearningRateTest, FallsInALineToItsFinalValueAtTheLastStep) {
  EXPECT_THAT(Rates({.peak = 1.0, .final = 0.2, .shape = ScheduleShape::kLinear}, 5),
              AreNearly({1.0, 0.8, 0.6, 0.4, 0.2}));
}

TEST(LearningRateTest, FallsAfterTheWarmUpOnly) {
  EXPECT_THAT(
      Rates({.peak = 1.0, .final = 0.0, .warmup_steps = 2, .shape = ScheduleShape::kLinear}, 7),
      AreNearly({0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0}));
}

TEST(LearningRateTest, FollowsHalfACosine) {
  const double root = std::sqrt(0.5);
  EXPECT_THAT(
      Rates({.peak = 3.0, .final = 1.0, .shape = ScheduleShape::kCosine}, 5),
      Pointwise(DoubleNear(1e-15), std::vector<double>{3.0, 2.0 + root, 2.0, 2.0 - root, 1.0}));
}

TEST(LearningRateTest, FallsByTheSameFactorEachStep) {
  EXPECT_THAT(Rates({.peak = 8e-3, .final = 5e-4, .shape = ScheduleShape::kExponential}, 5),
              Pointwise(DoubleNear(1e-17), std::vector<double>{8e-3, 4e-3, 2e-3, 1e-3, 5e-4}));
}

TEST(LearningRateTest, StaysAtThePeakWhereNoFinalValueIsGiven) {
  for (const auto shape :
       {ScheduleShape::kCosine, ScheduleShape::kExponential, ScheduleShape::kLinear}) {
    for (const double rate : Rates({.peak = 0.25, .shape = shape}, 4)) EXPECT_EQ(rate, 0.25);
  }
}

TEST(LearningRateTest, ReachesTheFinalValueInTheShortestStages) {
  for (const auto shape :
       {ScheduleShape::kCosine, ScheduleShape::kExponential, ScheduleShape::kLinear}) {
    const ScheduleConfig schedule{.peak = 1.0, .final = 0.5, .shape = shape};
    EXPECT_THAT(Rates(schedule, 1), AreNearly({1.0}));
    EXPECT_THAT(Rates(schedule, 2), AreNearly({1.0, 0.5}));
  }
}

TEST(LearningRateTest, WarmUpMayTakeTheWholeStage) {
  for (const auto shape : {ScheduleShape::kConstant, ScheduleShape::kCosine,
                           ScheduleShape::kExponential, ScheduleShape::kLinear}) {
    EXPECT_THAT(Rates({.peak = 1.0, .final = 0.5, .warmup_steps = 2, .shape = shape}, 2),
                AreNearly({0.5, 1.0}));
  }
}

}  // namespace
}  // namespace salamander
