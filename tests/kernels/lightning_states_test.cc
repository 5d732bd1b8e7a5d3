#include "kernels/lightning_states.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/lightning_attention.h"
#include "tests/kernels/lightning_problem.h"
#include "tests/support/finite_difference.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

// As in lightning_attention_test.cc: a few units of rounding in root mean square. The one element
// of a state of dim 1 can cancel to a tenth of its terms.
double Bound(DType dtype, int64_t dim) {
  return (dtype == DType::kFloat32 ? 1e-6 : 2e-15) * (dim == 1 ? 10 : 1);
}

// One document with slots 0 and 1; the state that it starts from is zero, and so is the gradient
// of the one it ends in.
LightningProblem OneDocument(int64_t tokens, int64_t heads, int64_t dim, DType dtype) {
  LightningProblem problem = RandomLightningProblem({.documents = {tokens},
                                                     .heads = heads,
                                                     .dim = dim,
                                                     .has_states = true,
                                                     .dtype = dtype,
                                                     .seed = static_cast<uint64_t>(tokens)});
  problem.states = TestTensor(dtype, {2, heads, dim, dim});
  problem.d_states = TestTensor(dtype, {2, heads, dim, dim});
  return problem;
}

enum class Walk { kForwards, kReversed };

TestTensor EndState(const LightningProblem& problem, Walk walk) {
  const TestContext context;
  const TensorView q = problem.q.View();
  const TestTensor state = TestTensor::Poisoned(q.dtype(), {q.dim(1), q.dim(2), q.dim(2)});
  const bool reversed = walk == Walk::kReversed;
  EXPECT_TRUE(
      LightningEndState(context, {.key = reversed ? q : problem.k.View(),
                                  .value = reversed ? problem.d_out.View() : problem.v.View(),
                                  .slopes = problem.slopes,
                                  .scale = reversed ? problem.scale : 1.0,
                                  .reversed = reversed,
                                  .state = state.View()})
          .ok());
  return state;
}

TensorView Slot(const TestTensor& states, int64_t slot) {
  const TensorView row = states.View().Rows(slot, 1);
  return row.Reshape({row.dim(1), row.dim(2), row.dim(3)});
}

TEST(LightningEndStateTest, EqualsWhatTheRecurrenceLeavesBehind) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const int64_t tokens : {1, 2, 63, 64, 65, 129, 700}) {
      for (const int64_t dim : {1, 5, 16, 40}) {
        SCOPED_TRACE(testing::Message() << Name(dtype) << ", " << tokens << " tokens, dim " << dim);
        const LightningProblem problem = OneDocument(tokens, 6, dim, dtype);
        const LightningOutput forward = ReferenceForward(problem);
        EXPECT_LE(RelativeRmse(EndState(problem, Walk::kForwards).View(), Slot(forward.states, 1)),
                  Bound(dtype, dim));
        const LightningGradients backward = ReferenceBackward(problem);
        EXPECT_LE(
            RelativeRmse(EndState(problem, Walk::kReversed).View(), Slot(backward.d_states, 0)),
            Bound(dtype, dim));
      }
    }
  }
}

TEST(LightningEndStateTest, ReversedMatchesFiniteDifferencesOfTheStartState) {
  const LightningProblem problem = OneDocument(70, 6, 3, DType::kFloat64);
  const TestTensor gradient = EndState(problem, Walk::kReversed);
  const auto forward = [&] { return Dot(RunForward(problem).out.View(), problem.d_out.View()); };
  EXPECT_TRUE(MatchesFiniteDifferences(forward, Slot(problem.states, 0), gradient.View(),
                                       {.step = 1e-2, .tolerance = 1e-8}));
}

// What ranks that share a document exchange, with no ranks.
TEST(LightningEndStateTest, PiecesOfADocumentAddUpToTheWhole) {
  const LightningProblem whole = OneDocument(210, 6, 12, DType::kFloat64);
  const TestTensor states(DType::kFloat64, {3, 6, 12, 12});
  const int64_t ends[] = {0, 64, 65, 210};
  std::vector<double> weights;
  const TestContext context;
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t count = ends[i + 1] - ends[i];
    ASSERT_TRUE(LightningEndState(context, {.key = whole.k.View().Rows(ends[i], count),
                                            .value = whole.v.View().Rows(ends[i], count),
                                            .slopes = whole.slopes,
                                            .state = Slot(states, i)})
                    .ok());
    for (const double slope : whole.slopes)
      weights.push_back(std::exp(-slope * static_cast<double>(210 - ends[i + 1])));
  }
  const TestTensor sum = TestTensor::Poisoned(DType::kFloat64, {6, 12, 12});
  ASSERT_TRUE(
      LightningStateSum(context, {.states = states.View(), .weights = weights, .sum = sum.View()})
          .ok());
  EXPECT_LE(RelativeRmse(sum.View(), EndState(whole, Walk::kForwards).View()), 1e-14);
}

TEST(LightningEndStateTest, ThreadCountDoesNotChangeABit) {
  const LightningProblem problem = OneDocument(300, 5, 20, DType::kFloat32);
  TestTensor one;
  {
    const ScopedThreadCount count(1);
    one = EndState(problem, Walk::kForwards);
  }
  for (const int threads : {2, 7}) {
    const ScopedThreadCount count(threads);
    EXPECT_TRUE(BitwiseEqual(EndState(problem, Walk::kForwards).View(), one.View())) << threads;
  }
}

TEST(LightningStateSumTest, AStateOfWeightZeroIsNotRead) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    TestTensor states = TestTensor::Normal(dtype, {3, 2, 4, 4}, 5);
    states.PoisonRows(1, 1);
    const TestTensor sum = TestTensor::Poisoned(dtype, {2, 4, 4});
    const std::vector<double> weights = {0.5, 1.0, 0.0, 0.0, 0.25, 0.0};
    const TestContext context;
    ASSERT_TRUE(
        LightningStateSum(context, {.states = states.View(), .weights = weights, .sum = sum.View()})
            .ok());
    for (int64_t i = 0; i < 16; ++i) {
      EXPECT_NEAR(sum.At(i), 0.5 * states.At(i) + 0.25 * states.At(64 + i), 1e-6);
      EXPECT_EQ(sum.At(16 + i), states.At(16 + i));
    }
  }
}

}  // namespace
}  // namespace salamander
