#include "trainer/step/train_step.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "tests/trainer/step_problem.h"

namespace salamander {
namespace {

class TrainStepTest : public testing::Test {
 protected:
  StepResult Step(StepProblem& problem, const BatchShape& batch, int64_t first = 0) {
    const auto result = problem.Step(first, batch);
    SALAMANDER_CHECK(result.ok()) << result.status().ToString();
    return *result;
  }
};

// Sequences count differently, so a mean of micro-batches' means would show.
TEST_F(TrainStepTest, MicroBatchSizeChangesNothingButRounding) {
  StepProblem whole;
  const StepResult expected = Step(whole, {.sequences = 6, .sequences_per_micro = 6});
  for (const int64_t sequences_per_micro : {1, 2, 4, 9}) {
    StepProblem problem;
    const StepResult result =
        Step(problem, {.sequences = 6, .sequences_per_micro = sequences_per_micro});
    EXPECT_EQ(result.row_weights, expected.row_weights);
    EXPECT_NEAR(result.loss, expected.loss, 1e-6 * expected.loss);
    EXPECT_NEAR(result.gradient_norm, expected.gradient_norm, 1e-5 * expected.gradient_norm);
    EXPECT_LT(RelativeRmse(problem.gradients().Flat(), whole.gradients().Flat()), 5e-6)
        << sequences_per_micro << " a micro-batch";
  }
}

TEST_F(TrainStepTest, LossIsTheMeanOverTheTargetsThatCount) {
  StepProblem problem;
  std::vector<PackedStream> sequences;
  double count = 0.0;
  for (int64_t n = 5; n < 9; ++n) {
    sequences.push_back(StepProblem::Sequence(n));
    count += sequences.back().weighted_targets();
  }
  const PackedStream batch = Concatenate(sequences);
  TestContext context;
  const auto sum =
      SumLoss(context, *LanguageModelObjective(problem.model()), absl::MakeConstSpan(&batch, 1));
  ASSERT_TRUE(sum.ok()) << sum.status();
  const StepResult result = Step(problem, {.sequences = 4, .sequences_per_micro = 2}, 5);
  EXPECT_EQ(result.row_weights, count);
  EXPECT_NEAR(result.loss, sum->loss / count, 1e-6 * result.loss);
}

TEST_F(TrainStepTest, ABatchWithoutATargetIsRefused) {
  StepProblem problem;
  const SequenceAt masked = [](int64_t n) -> absl::StatusOr<PackedStream> {
    PackedStream sequence = StepProblem::Sequence(n);
    std::fill(sequence.loss_weights.begin(), sequence.loss_weights.end(), 0.0F);
    return sequence;
  };
  const auto result = problem.Step(8, {.sequences = 2}, {.sequence_at = masked});
  EXPECT_THAT(result.status().message(), testing::HasSubstr("sequences 8 to 9 hold no token"));
}

TEST_F(TrainStepTest, AnOverflowChangesNoWeight) {
  StepProblem problem;
  const TensorView flat = problem.weights().Flat();
  SetElement(flat, 0, std::numeric_limits<double>::infinity());
  TestTensor before(DType::kFloat32, {flat.size()});
  for (int64_t index = 0; index < flat.size(); ++index) before.Set(index, ElementAt(flat, index));
  const SequenceAt with_token_zero = [](int64_t n) -> absl::StatusOr<PackedStream> {
    PackedStream sequence = StepProblem::Sequence(n);
    sequence.tokens[0] = 0;
    return sequence;
  };
  const auto result = problem.Step(0, {.sequences = 1}, {.sequence_at = with_token_zero});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->is_finite);
  EXPECT_TRUE(BitwiseEqual(flat, before.View()));
}

TEST_F(TrainStepTest, LanguageModelLossFallsOverThirtySteps) {
  StepProblem problem;
  const BatchShape batch{.sequences = 4, .sequences_per_micro = 4};
  const double first = Step(problem, batch).loss;
  for (int step = 1; step < 29; ++step) Step(problem, batch, 4 * step);
  EXPECT_LT(Step(problem, batch).loss, 0.5 * first);
}

}  // namespace
}  // namespace salamander
