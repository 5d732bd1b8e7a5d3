#include "kernels/head_norm_rope.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/reference/head_norm_rope.h"
#include "tests/support/finite_difference.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor input;           // [T, H, D]
  TestTensor weight;          // [D] or none
  TestTensor cosines, sines;  // [T, D/2] or none
  TestTensor d_output;        // [T, H, D]

  Problem As(DType dtype) const {
    return {input.As(dtype), weight.As(dtype), cosines.As(dtype), sines.As(dtype),
            d_output.As(dtype)};
  }
};

struct Shape {
  int64_t tokens, heads, dim;
  bool has_norm = true, has_rotation = true;
};

Problem MakeProblem(DType dtype, const Shape& shape) {
  Problem problem{.input = TestTensor::Normal(dtype, {shape.tokens, shape.heads, shape.dim}, 1),
                  .weight = {},
                  .cosines = {},
                  .sines = {},
                  .d_output = TestTensor::Normal(dtype, {shape.tokens, shape.heads, shape.dim}, 2)};
  if (shape.has_norm) problem.weight = TestTensor::Uniform(dtype, {shape.dim}, 3, 0.5, 1.5);
  if (shape.has_rotation) {
    problem.cosines = TestTensor(dtype, {shape.tokens, shape.dim / 2});
    problem.sines = problem.cosines;
    for (int64_t i = 0; i < problem.cosines.size(); ++i) {
      problem.cosines.Set(i, std::cos(0.1 * static_cast<double>(i)));
      problem.sines.Set(i, std::sin(0.1 * static_cast<double>(i)));
    }
  }
  return problem;
}

TestTensor PoisonedLike(const TestTensor& tensor) {
  TestTensor poisoned = tensor;
  poisoned.PoisonRows(0, tensor.View().dim(0));
  return poisoned;
}

// The output, and inverse_rms where there is a norm.
template <typename Op>
Outputs Forward(const Problem& p, const Op& op) {
  const TestTensor output = PoisonedLike(p.input);
  TestTensor inverse_rms;
  if (!p.weight.View().empty()) {
    const TensorView input = p.input.View();
    inverse_rms = TestTensor::Poisoned(input.dtype(), {input.dim(0), input.dim(1)});
  }
  op({.input = p.input.View(),
      .weight = p.weight.View(),
      .epsilon = 1e-5,
      .cosines = p.cosines.View(),
      .sines = p.sines.View(),
      .output = output.View(),
      .inverse_rms = inverse_rms.View()});
  return p.weight.View().empty() ? Outputs{output} : Outputs{output, inverse_rms};
}

// d_input, and d_weight (from zero) where there is a norm.
template <typename Op>
Outputs Backward(const Problem& p, const Outputs& forward, const Op& op) {
  const bool has_norm = !p.weight.View().empty();
  const TestTensor d_input = PoisonedLike(p.input);
  TestTensor d_weight;
  if (has_norm) d_weight = TestTensor(p.weight.View().dtype(), {p.weight.size()});
  op({.input = has_norm ? p.input.View() : TensorView(),
      .weight = p.weight.View(),
      .cosines = p.cosines.View(),
      .sines = p.sines.View(),
      .inverse_rms = has_norm ? forward[1].View() : TensorView(),
      .d_output = p.d_output.View(),
      .d_input = d_input.View(),
      .d_weight = d_weight.View()});
  return has_norm ? Outputs{d_input, d_weight} : Outputs{d_input};
}

const auto kForward = [](const HeadNormRopeForwardArgs& args) {
  const TestContext context;
  EXPECT_TRUE(HeadNormRopeForward(context, args).ok());
};
const auto kBackward = [](const HeadNormRopeBackwardArgs& args) {
  const TestContext context;
  EXPECT_TRUE(HeadNormRopeBackward(context, args).ok());
};

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {
      {.tokens = 7, .heads = 3, .dim = 17, .has_rotation = false},
      {.tokens = 1, .heads = 1, .dim = 1, .has_rotation = false},
      {.tokens = 3, .heads = 2, .dim = 4, .has_norm = false, .has_rotation = false}};
  for (const int64_t tokens : {1, 7, 130}) {
    for (const int64_t dim : {2, 6, 64, 100}) {
      shapes.push_back({.tokens = tokens, .heads = 3, .dim = dim});
      shapes.push_back({.tokens = tokens, .heads = 3, .dim = dim, .has_norm = false});
    }
  }
  return shapes;
}

TEST(HeadNormRopeTest, ForwardMatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const Shape& shape : Shapes()) {
      const Problem problem = MakeProblem(dtype, shape);
      ExpectClose(Forward(problem, kForward),
                  Forward(problem.As(DType::kFloat64), reference::HeadNormRopeForward),
                  Bound(dtype, shape.dim));
    }
  }
}

TEST(HeadNormRopeTest, GradientsMatchFiniteDifferences) {
  for (const Shape& shape : {Shape{.tokens = 5, .heads = 2, .dim = 6},
                             Shape{.tokens = 5, .heads = 2, .dim = 6, .has_norm = false},
                             Shape{.tokens = 5, .heads = 2, .dim = 7, .has_rotation = false}}) {
    const Problem p = MakeProblem(DType::kFloat64, shape);
    const auto loss = [&] { return Dot(Forward(p, kForward)[0].View(), p.d_output.View()); };
    const Outputs gradients = Backward(p, Forward(p, kForward), kBackward);
    EXPECT_TRUE(MatchesFiniteDifferences(loss, p.input.View(), gradients[0].View()));
    if (shape.has_norm) {
      EXPECT_TRUE(MatchesFiniteDifferences(loss, p.weight.View(), gradients[1].View()));
    }
  }
}

TEST(HeadNormRopeTest, SinglePrecisionGradientsMatchDouble) {
  for (const Shape& shape : Shapes()) {
    if (shape.dim == 1) continue;  // a lone normalised element has no gradient but its rounding
    const Problem problem = MakeProblem(DType::kFloat32, shape);
    const Problem exact = problem.As(DType::kFloat64);
    ExpectClose(Backward(problem, Forward(problem, kForward), kBackward),
                Backward(exact, Forward(exact, kForward), kBackward),
                Bound(DType::kFloat32, shape.dim + shape.tokens * shape.heads));
  }
}

TEST(HeadNormRopeTest, RotationKeepsLengthAndItsBackwardUndoesIt) {
  Problem problem =
      MakeProblem(DType::kFloat64, {.tokens = 9, .heads = 2, .dim = 8, .has_norm = false});
  const TestTensor turned = Forward(problem, kForward)[0];
  EXPECT_NEAR(Dot(turned.View(), turned.View()), Dot(problem.input.View(), problem.input.View()),
              1e-12);
  problem.d_output = turned;
  ExpectClose(Backward(problem, {turned}, kBackward), {problem.input}, 1e-15);
}

TEST(HeadNormRopeTest, WithoutNormMayRunInPlace) {
  for (const bool has_rotation : {true, false}) {
    const Problem problem = MakeProblem(
        DType::kFloat32,
        {.tokens = 130, .heads = 3, .dim = 100, .has_norm = false, .has_rotation = has_rotation});
    Problem in_place = problem;
    Forward(in_place, [](HeadNormRopeForwardArgs args) {
      args.output = args.input;
      kForward(args);
    });
    ExpectSameBits({in_place.input}, Forward(problem, kForward));
  }
}

TEST(HeadNormRopeTest, InputGradientMayBeTheOutputGradient) {
  for (const bool has_norm : {true, false}) {
    const Problem problem =
        MakeProblem(DType::kFloat32, {.tokens = 130, .heads = 3, .dim = 100, .has_norm = has_norm});
    const Outputs forward = Forward(problem, kForward);
    Outputs expected = Backward(problem, forward, kBackward);
    Problem in_place = problem;
    Outputs actual = Backward(in_place, forward, [](HeadNormRopeBackwardArgs args) {
      args.d_input = args.d_output;
      kBackward(args);
    });
    actual[0] = in_place.d_output;
    ExpectSameBits(actual, expected);
  }
}

TEST(HeadNormRopeTest, SameBitsOnAnyThreads) {
  const Problem problem = MakeProblem(DType::kFloat32, {.tokens = 130, .heads = 5, .dim = 64});
  ExpectSameBitsOnAnyThreads([&] { return Forward(problem, kForward); });
  const Outputs forward = Forward(problem, kForward);
  ExpectSameBitsOnAnyThreads([&] { return Backward(problem, forward, kBackward); });
}

}  // namespace
}  // namespace salamander
