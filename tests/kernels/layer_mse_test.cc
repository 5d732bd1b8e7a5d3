#include "kernels/layer_mse.h"

#include <cstdint>

#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/reference/layer_mse.h"
#include "tests/support/finite_difference.h"

namespace salamander {
namespace {

constexpr double kGradientScale = 0.25;

struct Problem {
  TestTensor output, target;  // [T, C]
  TestTensor row_weights;     // [T] fp32 or none

  Problem As(DType dtype) const { return {output.As(dtype), target.As(dtype), row_weights}; }
};

// Targets near the outputs, every third row without weight.
Problem MakeProblem(DType dtype, int64_t tokens, int64_t width) {
  Problem problem{.output = TestTensor::Normal(dtype, {tokens, width}, 1),
                  .target = TestTensor::Normal(dtype, {tokens, width}, 2),
                  .row_weights = TestTensor::Uniform(DType::kFloat32, {tokens}, 3, 0.5, 1.5)};
  for (int64_t t = 1; t < tokens; t += 3) problem.row_weights.Set(t, 0.0);
  return problem;
}

// The gradient, and the sums: loss, target, product, output.
template <typename Op>
Outputs RunOp(const Problem& p, const Op& op) {
  TestTensor d_output = p.output;
  d_output.PoisonRows(0, p.output.View().dim(0));
  const TestTensor sums(DType::kFloat64, {4});
  op({.output = p.output.View(),
      .target = p.target.View(),
      .row_weights = p.row_weights.View(),
      .gradient_scale = kGradientScale,
      .d_output = d_output.View(),
      .loss_sum = sums.View().Rows(0, 1),
      .moments = sums.View().Rows(1, 3)});
  return {d_output, sums};
}

const auto kOp = [](const LayerMseArgs& args) {
  const TestContext context;
  EXPECT_TRUE(LayerMse(context, args).ok());
};

TEST(LayerMseTest, MatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const int64_t tokens : {1, 7, 130}) {
      for (const int64_t width : {1, 3, 17, 64, 100}) {
        Problem problem = MakeProblem(dtype, tokens, width);
        const auto check = [&] {
          const Outputs actual = RunOp(problem, kOp);
          const Outputs expected = RunOp(problem.As(DType::kFloat64), reference::LayerMse);
          ExpectClose({actual[0]}, {expected[0]}, Bound(dtype, 1));
          ExpectClose({actual[1]}, {expected[1]}, Bound(DType::kFloat64, tokens * width));
        };
        check();
        problem.row_weights = TestTensor();
        check();
      }
    }
  }
}

TEST(LayerMseTest, GradientMatchesFiniteDifferences) {
  const Problem p = MakeProblem(DType::kFloat64, 7, 17);
  const auto loss = [&] { return kGradientScale * RunOp(p, kOp)[1].At(0); };
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.output.View(), RunOp(p, kOp)[0].View()));
}

TEST(LayerMseTest, RowsWithoutWeightAreNotReadAndGetNoGradient) {
  Problem problem = MakeProblem(DType::kFloat32, 7, 17);
  const Outputs before = RunOp(problem, kOp);
  for (const int64_t row : {1, 4}) {
    problem.output.PoisonRows(row, 1);
    problem.target.PoisonRows(row, 1);
  }
  ExpectSameBits(RunOp(problem, kOp), before);
  for (int64_t c = 0; c < 17; ++c) EXPECT_EQ(before[0].At(17 + c), 0.0);
}

TEST(LayerMseTest, OnlyTheLossIsMandatory) {
  const Problem problem = MakeProblem(DType::kFloat32, 7, 17);
  double loss = 0;
  kOp({.output = problem.output.View(),
       .target = problem.target.View(),
       .row_weights = problem.row_weights.View(),
       .d_output = {},
       .loss_sum = TensorView::Of(&loss, {1}),
       .moments = {}});
  EXPECT_EQ(loss, RunOp(problem, kOp)[1].At(0));
}

TEST(LayerMseTest, SumsAreAddedToWhatIsThere) {
  const Problem problem = MakeProblem(DType::kFloat32, 7, 17);
  const Outputs once = RunOp(problem, kOp);
  const TestTensor sums = TestTensor::Of(DType::kFloat64, {4}, {1.0, 2.0, 3.0, 4.0});
  kOp({.output = problem.output.View(),
       .target = problem.target.View(),
       .row_weights = problem.row_weights.View(),
       .d_output = {},
       .loss_sum = sums.View().Rows(0, 1),
       .moments = sums.View().Rows(1, 3)});
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(sums.At(i), static_cast<double>(i + 1) + once[1].At(i)) << i;
  }
}

TEST(LayerMseTest, SameBitsOnAnyThreads) {
  const Problem problem = MakeProblem(DType::kFloat32, 257, 150);
  ExpectSameBitsOnAnyThreads([&] { return RunOp(problem, kOp); });
}

}  // namespace
}  // namespace salamander
