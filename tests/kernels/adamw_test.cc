#include "kernels/adamw.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/reference/adamw.h"

namespace salamander {
namespace {

// Two tensors with rates of their own, as a model has.
struct Problem {
  TestTensor weight, bias, gradient, bias_gradient;
};

Problem MakeProblem(DType dtype, int64_t rows, int64_t width) {
  return {.weight = TestTensor::Normal(dtype, {rows, width}, 1),
          .bias = TestTensor::Normal(dtype, {width}, 2),
          .gradient = TestTensor::Normal(dtype, {rows, width}, 3, 1e-3),
          .bias_gradient = TestTensor::Normal(dtype, {width}, 4, 1e-3)};
}

// Weights and moments of both tensors after three updates in `dtype`.
template <typename Op>
Outputs RunOp(const Problem& problem, DType dtype, const Op& op) {
  const TestTensor weight = problem.weight.As(dtype), bias = problem.bias.As(dtype);
  const TestTensor gradient = problem.gradient.As(dtype);
  const TestTensor bias_gradient = problem.bias_gradient.As(dtype);
  const TensorView shape = weight.View();
  const TestTensor m(dtype, {shape.dim(0), shape.dim(1)}), v = m;
  const TestTensor bias_m(dtype, {shape.dim(1)}), bias_v = bias_m;
  const AdamWTensor tensors[] = {
      {weight.View(), gradient.View(), m.View(), v.View(), {}, 1e-3, 0.1},
      {bias.View(), bias_gradient.View(), bias_m.View(), bias_v.View(), {}, 2e-3, 0.0}};
  double squares = 16.0;  // clipping halves the gradients
  for (int64_t step = 1; step <= 3; ++step) {
    op({.tensors = tensors,
        .beta2 = 0.999,
        .step = step,
        .gradient_squares = TensorView::Of(&squares, {1}),
        .clip_norm = 2.0});
  }
  return {weight, bias, m, v, bias_m, bias_v};
}

const auto kOp = [](const AdamWArgs& args) {
  const TestContext context;
  EXPECT_TRUE(AdamWUpdate(context, args).ok());
};

TEST(AdamWTest, MatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const int64_t rows : {1, 7, 130}) {
      for (const int64_t width : {1, 3, 17, 64, 100}) {
        const Problem problem = MakeProblem(dtype, rows, width);
        ExpectClose(RunOp(problem, dtype, kOp),
                    RunOp(problem, DType::kFloat64, reference::AdamWUpdate), Bound(dtype, 1));
      }
    }
  }
}

TEST(AdamWTest, FirstUpdateMovesByTheLearningRateAgainstTheGradient) {
  const TestTensor weight = TestTensor::Of(DType::kFloat32, {3}, {1.0, 1.0, 1.0});
  const TestTensor gradient = TestTensor::Of(DType::kFloat32, {3}, {4.0, -1e-3, 0.0});
  const TestTensor m(DType::kFloat32, {3}), v(DType::kFloat32, {3});
  const AdamWTensor tensors[] = {
      {weight.View(), gradient.View(), m.View(), v.View(), {}, 0.125, 0.0}};
  double squares = 0.0;
  kOp({.tensors = tensors, .gradient_squares = TensorView::Of(&squares, {1})});
  EXPECT_NEAR(weight.At(0), 0.875, 1e-6);
  EXPECT_NEAR(weight.At(1), 1.125, 1e-5);
  EXPECT_EQ(weight.At(2), 1.0);
}

TEST(AdamWTest, MomentsOfAConstantGradientConvergeToIt) {
  const TestTensor weight(DType::kFloat32, {1}), m = weight, v = weight;
  const TestTensor gradient = TestTensor::Of(DType::kFloat32, {1}, {0.7});
  const AdamWTensor tensors[] = {
      {weight.View(), gradient.View(), m.View(), v.View(), {}, 0.0, 0.0}};
  const TestContext context;
  double squares = 0.0;
  for (int64_t step = 1; step <= 20000; ++step) {
    ASSERT_TRUE(AdamWUpdate(context, {.tensors = tensors,
                                      .beta2 = 0.999,
                                      .step = step,
                                      .gradient_squares = TensorView::Of(&squares, {1})})
                    .ok());
  }
  EXPECT_NEAR(m.At(0) / 0.7, 1.0, 1e-6);
  EXPECT_NEAR(v.At(0) / 0.49, 1.0, 4e-5);
}

TEST(AdamWTest, ClipsOnlyGradientsAboveTheNorm) {
  for (const double clip_norm : {0.0, 4.0, 5.0}) {
    const TestTensor m(DType::kFloat32, {1}), v = m, weight = m;
    const TestTensor gradient = TestTensor::Of(DType::kFloat32, {1}, {1.0});
    const AdamWTensor tensors[] = {
        {weight.View(), gradient.View(), m.View(), v.View(), {}, 1e-3, 0.0}};
    double squares = 16.0;
    kOp({.tensors = tensors,
         .beta1 = 0.0,
         .gradient_squares = TensorView::Of(&squares, {1}),
         .clip_norm = clip_norm});
    EXPECT_EQ(m.At(0), 1.0) << clip_norm;
    squares = 400.0;
    kOp({.tensors = tensors,
         .beta1 = 0.0,
         .gradient_squares = TensorView::Of(&squares, {1}),
         .clip_norm = clip_norm});
    EXPECT_NEAR(m.At(0), clip_norm > 0 ? clip_norm / 20.0 : 1.0, 1e-7);
  }
}

TEST(AdamWTest, ChangesNothingWhereTheGradientsAreNotFinite) {
  for (double squares : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    const TestTensor weight = TestTensor::Of(DType::kFloat32, {2}, {1.0, -2.0});
    const TestTensor gradient = TestTensor::Of(DType::kFloat32, {2}, {NAN, INFINITY});
    const TestTensor m(DType::kFloat32, {2}), v = m;
    const TestTensor rounded = TestTensor::Of(DType::kBFloat16, {2}, {5.0, 6.0});
    const AdamWTensor tensors[] = {
        {weight.View(), gradient.View(), m.View(), v.View(), rounded.View(), 0.125, 0.1}};
    kOp({.tensors = tensors, .gradient_squares = TensorView::Of(&squares, {1}), .clip_norm = 1.0});
    EXPECT_EQ(weight.At(0), 1.0);
    EXPECT_EQ(weight.At(1), -2.0);
    EXPECT_EQ(rounded.At(0), 5.0);
    for (int64_t i = 0; i < 2; ++i) {
      EXPECT_EQ(m.At(i), 0.0);
      EXPECT_EQ(v.At(i), 0.0);
    }
  }
}

TEST(AdamWTest, RoundedHoldsTheNewWeightToNearest) {
  const TestTensor weight = TestTensor::Normal(DType::kFloat32, {10000}, 1);
  const TestTensor gradient = TestTensor::Normal(DType::kFloat32, {10000}, 2);
  const TestTensor m(DType::kFloat32, {10000}), v = m, rounded(DType::kBFloat16, {10000});
  const AdamWTensor tensors[] = {
      {weight.View(), gradient.View(), m.View(), v.View(), rounded.View(), 0.125, 0.1}};
  double squares = 1.0;
  kOp({.tensors = tensors, .gradient_squares = TensorView::Of(&squares, {1})});
  EXPECT_TRUE(BitwiseEqual(rounded.View(), weight.As(DType::kBFloat16).View()));
}

TEST(AdamWTest, SameBitsOnAnyThreads) {
  const Problem problem = MakeProblem(DType::kFloat32, 131, 301);
  ExpectSameBitsOnAnyThreads([&] { return RunOp(problem, DType::kFloat32, kOp); });
}

double Sum(const std::vector<TensorView>& tensors) {
  const TestContext context;
  double sum = NAN;
  EXPECT_TRUE(SumOfSquares(context, tensors, TensorView::Of(&sum, {1})).ok());
  return sum;
}

TEST(SumOfSquaresTest, AddsAllTensorsInDoublePrecision) {
  for (const DType dtype : kBothTypes) {
    const TestTensor a = TestTensor::Normal(dtype, {130, 100}, 1),
                     b = TestTensor::Normal(dtype, {3}, 2);
    const double expected = Dot(a.View(), a.View()) + Dot(b.View(), b.View());
    EXPECT_NEAR(Sum({a.View(), b.View()}) / expected, 1.0, Bound(DType::kFloat64, a.size()));
  }
  EXPECT_EQ(Sum({}), 0.0);
}

TEST(SumOfSquaresTest, SquaresBeyondSinglePrecisionDoNotOverflow) {
  const TestTensor huge = TestTensor::Constant(DType::kFloat32, {4}, 1e30);
  EXPECT_NEAR(Sum({huge.View()}) / 4e60, 1.0, 1e-6);
}

TEST(SumOfSquaresTest, SameBitsOnAnyThreads) {
  const TestTensor x = TestTensor::Normal(DType::kFloat32, {300, 301}, 1);
  ExpectSameBitsOnAnyThreads(
      [&] { return Outputs{TestTensor::Of(DType::kFloat64, {1}, {Sum({x.View()})})}; });
}

}  // namespace
}  // namespace salamander
