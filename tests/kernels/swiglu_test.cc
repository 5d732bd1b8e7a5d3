#include "kernels/swiglu.h"

#include <cmath>
#include <cstdint>

#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/reference/swiglu.h"
#include "tests/support/finite_difference.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor gate, up, d_output;  // [T, F]

  Problem As(DType dtype) const { return {gate.As(dtype), up.As(dtype), d_output.As(dtype)}; }
};

// Gates wide enough that some saturate.
Problem MakeProblem(DType dtype, int64_t tokens, int64_t width) {
  return {.gate = TestTensor::Normal(dtype, {tokens, width}, 1, 4.0),
          .up = TestTensor::Normal(dtype, {tokens, width}, 2),
          .d_output = TestTensor::Normal(dtype, {tokens, width}, 3)};
}

TestTensor PoisonedLike(const TestTensor& tensor) {
  TestTensor poisoned = tensor;
  poisoned.PoisonRows(0, tensor.View().dim(0));
  return poisoned;
}

template <typename Op>
Outputs Forward(const Problem& p, const Op& op) {
  const TestTensor output = PoisonedLike(p.gate);
  op({p.gate.View(), p.up.View(), output.View()});
  return {output};
}

// d_gate, d_up and the output once more.
Outputs Backward(const Problem& p) {
  const TestContext context;
  const TestTensor d_gate = PoisonedLike(p.gate), d_up = d_gate, output = d_gate;
  EXPECT_TRUE(SwigluBackward(context, {p.gate.View(), p.up.View(), p.d_output.View(), d_gate.View(),
                                       d_up.View(), output.View()})
                  .ok());
  return {d_gate, d_up, output};
}

const auto kForward = [](const SwigluForwardArgs& args) {
  const TestContext context;
  EXPECT_TRUE(SwigluForward(context, args).ok());
};

TEST(SwigluTest, MatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const int64_t tokens : {1, 7, 130}) {
      for (const int64_t width : {1, 3, 17, 64, 100}) {
        const Problem problem = MakeProblem(dtype, tokens, width);
        const Problem exact = problem.As(DType::kFloat64);
        ExpectClose(Forward(problem, kForward), Forward(exact, reference::SwigluForward),
                    Bound(dtype, 1));
        ExpectClose(Backward(problem), Backward(exact), Bound(dtype, 1));
      }
    }
  }
}

TEST(SwigluTest, GradientsMatchFiniteDifferences) {
  const Problem p = MakeProblem(DType::kFloat64, 7, 17);
  const auto loss = [&] { return Dot(Forward(p, kForward)[0].View(), p.d_output.View()); };
  const Outputs gradients = Backward(p);
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.gate.View(), gradients[0].View()));
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.up.View(), gradients[1].View()));
}

TEST(SwigluTest, BackwardGivesTheOutputOfTheForward) {
  for (const int64_t width : {3, 100, 4099}) {
    const Problem problem = MakeProblem(DType::kFloat32, 7, width);
    ExpectSameBits({Backward(problem)[2]}, Forward(problem, kForward));
  }
}

TEST(SwigluTest, GradientsMayReplaceTheirInputsAndTheOutputMayBeLeftOut) {
  const TestContext context;
  const Problem problem = MakeProblem(DType::kFloat32, 130, 100);
  const Outputs expected = Backward(problem);
  const Problem p = problem;
  ASSERT_TRUE(
      SwigluBackward(
          context,
          {p.gate.View(), p.up.View(), p.d_output.View(), p.gate.View(), p.d_output.View(), {}})
          .ok());
  ExpectSameBits({p.gate, p.d_output}, {expected[0], expected[1]});
}

TEST(SwigluTest, SaturatedGatesStayFinite) {
  Problem p = MakeProblem(DType::kFloat32, 1, 4);
  for (const double gate : {-1e4, -89.0, 89.0, 1e4}) {
    for (int64_t i = 0; i < 4; ++i) p.gate.Set(i, gate);
    for (const TestTensor& tensor : Backward(p)) {
      for (int64_t i = 0; i < 4; ++i) EXPECT_TRUE(std::isfinite(tensor.At(i))) << gate;
    }
  }
}

TEST(SwigluTest, SameBitsOnAnyThreads) {
  const Problem problem = MakeProblem(DType::kFloat32, 131, 301);
  ExpectSameBitsOnAnyThreads([&] { return Forward(problem, kForward); });
  ExpectSameBitsOnAnyThreads([&] { return Backward(problem); });
}

}  // namespace
}  // namespace salamander
