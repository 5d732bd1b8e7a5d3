#include "trainer/run/memory_plan.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kGibibyte = int64_t{1} << 30;

MemoryPlan PlanOf(int64_t parameters_in_gibi) {
  MemoryPlan plan{.masters = 4 * parameters_in_gibi * kGibibyte,
                  .moments = 8 * parameters_in_gibi * kGibibyte,
                  .gradients = 4 * parameters_in_gibi * kGibibyte,
                  .weights = 2 * parameters_in_gibi * kGibibyte};
  plan.stages = {{.name = "short",
                  .activations = 3 * kGibibyte,
                  .training = 4 * kGibibyte,
                  .evaluation = 5 * kGibibyte},
                 {.name = "long",
                  .activations = 20 * kGibibyte,
                  .training = 22 * kGibibyte,
                  .evaluation = 1 * kGibibyte}};
  return plan;
}

TEST(MemoryPlanTest, TotalHoldsTheLargestStage) {
  EXPECT_EQ(PlanOf(1).held(), 18 * kGibibyte);
  EXPECT_EQ(PlanOf(1).total(), 40 * kGibibyte);
  EXPECT_TRUE(CheckFits(PlanOf(1), 40 * kGibibyte, "a GPU").ok());
}

TEST(MemoryPlanTest, ActivationsThatDoNotFitAreNamedWithTheirStage) {
  const absl::Status status = CheckFits(PlanOf(1), 40 * kGibibyte - 1, "a GPU");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("stage long needs 40.00 GiB"), HasSubstr("activations 20.00 GiB"),
                    HasSubstr("scratch 2.00 GiB"), HasSubstr("a GPU has 40.00 GiB"),
                    HasSubstr("recomputation: full")));
}

TEST(MemoryPlanTest, AnEvaluationThatDoesNotFitIsToldAsSuch) {
  MemoryPlan plan = PlanOf(1);
  plan.stages[0].evaluation = 60 * kGibibyte;
  const absl::Status status = CheckFits(plan, 70 * kGibibyte, "a GPU");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("stage short needs 78.00 GiB"), HasSubstr("evaluation 60.00 GiB"),
                    HasSubstr("lower evaluation.sequence_length")));
}

TEST(MemoryPlanTest, AModelThatDoesNotFitIsToldByItsState) {
  const absl::Status status = CheckFits(PlanOf(5), 80 * kGibibyte, "a GPU");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("the model's state needs 90.00 GiB"), HasSubstr("moments 40.00 GiB"),
                    HasSubstr("smaller model")));
}

}  // namespace
}  // namespace salamander
