#include "kernels/sigmoid_gate.h"

#include <cstdint>

#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/reference/sigmoid_gate.h"
#include "tests/support/finite_difference.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor input, gate, d_output;  // [T, C]

  Problem As(DType dtype) const { return {input.As(dtype), gate.As(dtype), d_output.As(dtype)}; }
};

Problem MakeProblem(DType dtype, int64_t tokens, int64_t width) {
  return {.input = TestTensor::Normal(dtype, {tokens, width}, 1),
          .gate = TestTensor::Normal(dtype, {tokens, width}, 2, 4.0),
          .d_output = TestTensor::Normal(dtype, {tokens, width}, 3)};
}

TestTensor PoisonedLike(const TestTensor& tensor) {
  TestTensor poisoned = tensor;
  poisoned.PoisonRows(0, tensor.View().dim(0));
  return poisoned;
}

template <typename Op>
Outputs Forward(const Problem& p, const Op& op) {
  const TestTensor output = PoisonedLike(p.input);
  op({p.input.View(), p.gate.View(), output.View()});
  return {output};
}

// d_input and d_gate.
Outputs Backward(const Problem& p) {
  const TestContext context;
  const TestTensor d_input = PoisonedLike(p.input), d_gate = d_input;
  EXPECT_TRUE(SigmoidGateBackward(context, {p.input.View(), p.gate.View(), p.d_output.View(),
                                            d_input.View(), d_gate.View()})
                  .ok());
  return {d_input, d_gate};
}

const auto kForward = [](const SigmoidGateForwardArgs& args) {
  const TestContext context;
  EXPECT_TRUE(SigmoidGateForward(context, args).ok());
};

TEST(SigmoidGateTest, MatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const int64_t tokens : {1, 7, 130}) {
      for (const int64_t width : {1, 3, 17, 64, 100}) {
        const Problem problem = MakeProblem(dtype, tokens, width);
        const Problem exact = problem.As(DType::kFloat64);
        ExpectClose(Forward(problem, kForward), Forward(exact, reference::SigmoidGateForward),
                    Bound(dtype, 1));
        ExpectClose(Backward(problem), Backward(exact), Bound(dtype, 1));
      }
    }
  }
}

TEST(SigmoidGateTest, GradientsMatchFiniteDifferences) {
  const Problem p = MakeProblem(DType::kFloat64, 7, 17);
  const auto loss = [&] { return Dot(Forward(p, kForward)[0].View(), p.d_output.View()); };
  const Outputs gradients = Backward(p);
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.input.View(), gradients[0].View()));
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.gate.View(), gradients[1].View()));
}

TEST(SigmoidGateTest, OutputMayBeTheInput) {
  const Problem problem = MakeProblem(DType::kFloat32, 130, 100);
  const Problem in_place = problem;
  kForward({in_place.input.View(), in_place.gate.View(), in_place.input.View()});
  ExpectSameBits({in_place.input}, Forward(problem, kForward));
}

TEST(SigmoidGateTest, InputGradientMayBeTheOutputGradient) {
  const TestContext context;
  const Problem problem = MakeProblem(DType::kFloat32, 130, 100);
  const Problem p = problem;
  const TestTensor d_gate = PoisonedLike(p.gate);
  ASSERT_TRUE(SigmoidGateBackward(context, {p.input.View(), p.gate.View(), p.d_output.View(),
                                            p.d_output.View(), d_gate.View()})
                  .ok());
  ExpectSameBits({p.d_output, d_gate}, Backward(problem));
}

TEST(SigmoidGateTest, SameBitsOnAnyThreads) {
  const Problem problem = MakeProblem(DType::kFloat32, 131, 301);
  ExpectSameBitsOnAnyThreads([&] { return Forward(problem, kForward); });
  ExpectSameBitsOnAnyThreads([&] { return Backward(problem); });
}

}  // namespace
}  // namespace salamander
