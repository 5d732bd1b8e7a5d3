#include "kernels/linear.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/reference/linear.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor input;     // [T, Cin]
  TestTensor weight;    // [Cout, Cin]
  TestTensor d_output;  // [T, Cout]
  bool accumulate = false;

  Problem As(DType dtype) const {
    return {input.As(dtype), weight.As(dtype), d_output.As(dtype), accumulate};
  }
};

Problem MakeProblem(DType dtype, int64_t tokens, int64_t columns, int64_t inner) {
  return {.input = TestTensor::Normal(dtype, {tokens, inner}, 1),
          .weight = TestTensor::Normal(dtype, {columns, inner}, 2),
          .d_output = TestTensor::Normal(dtype, {tokens, columns}, 3)};
}

// The output, d_input and d_weight; what they held before is some other tensor, or NaN where it may
// not be read.
template <typename ForwardOp, typename BackwardOp>
Outputs Run(const Problem& p, const ForwardOp& forward, const BackwardOp& backward) {
  const auto start = [&](const TestTensor& like) {
    TestTensor tensor = like;
    if (!p.accumulate) tensor.PoisonRows(0, tensor.View().dim(0));
    return tensor;
  };
  const TestTensor output = start(p.d_output), d_input = start(p.input), d_weight = p.weight;
  forward({p.input.View(), p.weight.View(), output.View(), p.accumulate});
  backward({p.input.View(), p.weight.View(), p.d_output.View(), d_input.View(), d_weight.View(),
            p.accumulate});
  return {output, d_input, d_weight};
}

Outputs RunOp(const Problem& problem) {
  const TestContext context;
  return Run(
      problem,
      [&](const LinearForwardArgs& args) { EXPECT_TRUE(LinearForward(context, args).ok()); },
      [&](const LinearBackwardArgs& args) { EXPECT_TRUE(LinearBackward(context, args).ok()); });
}

Outputs RunReference(const Problem& problem) {
  return Run(problem.As(DType::kFloat64), reference::LinearForward, reference::LinearBackward);
}

TEST(LinearTest, MatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const int64_t tokens : {1, 7, 130}) {
      for (const int64_t columns : {1, 17, 100}) {
        for (const int64_t inner : {1, 3, 64}) {
          Problem problem = MakeProblem(dtype, tokens, columns, inner);
          const double bound = Bound(dtype, std::max({tokens, columns, inner}));
          ExpectClose(RunOp(problem), RunReference(problem), bound);
          problem.accumulate = true;
          ExpectClose(RunOp(problem), RunReference(problem), bound);
        }
      }
    }
  }
}

TEST(LinearTest, TilesMeetAtTheirEdges) {
  const Problem problem = MakeProblem(DType::kFloat64, 300, 130, 70);
  ExpectClose(RunOp(problem), RunReference(problem), Bound(DType::kFloat64, 300));
}

TEST(LinearTest, SameBitsOnAnyThreads) {
  for (const DType dtype : kBothTypes) {
    for (const auto& [tokens, columns, inner] : {std::array<int64_t, 3>{137, 201, 65},
                                                 {1, 500, 300},
                                                 {345, 105, 730},
                                                 {64, 64, 64},
                                                 {7, 150, 249},
                                                 {80, 56, 58}}) {
      const Problem problem = MakeProblem(dtype, tokens, columns, inner);
      ExpectSameBitsOnAnyThreads([&] { return RunOp(problem); });
    }
  }
}

TEST(LinearTest, UnwantedGradientsNeedNoOperands) {
  const TestContext context;
  const Problem p = MakeProblem(DType::kFloat32, 7, 17, 5);
  const Outputs both = RunOp(p);
  const TestTensor d_input = TestTensor::Poisoned(DType::kFloat32, {7, 5}), d_weight = p.weight;
  ASSERT_TRUE(
      LinearBackward(context, {{}, p.weight.View(), p.d_output.View(), d_input.View(), {}}).ok());
  ASSERT_TRUE(
      LinearBackward(context, {p.input.View(), {}, p.d_output.View(), {}, d_weight.View()}).ok());
  ExpectSameBits({d_input, d_weight}, {both[1], both[2]});
}

}  // namespace
}  // namespace salamander
