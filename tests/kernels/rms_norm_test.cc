#include "kernels/rms_norm.h"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "tests/kernels/row_op_test.h"
#include "tests/reference/rms_norm.h"
#include "tests/support/finite_difference.h"

namespace salamander {
namespace {

constexpr double kBranchScale = 0.3, kEpsilon = 1e-5;

struct Problem {
  TestTensor residual, branch;    // [T, C]
  TestTensor weight;              // [C]
  TestTensor d_output, d_hidden;  // [T, C]

  Problem As(DType dtype) const {
    return {residual.As(dtype), branch.As(dtype), weight.As(dtype), d_output.As(dtype),
            d_hidden.As(dtype)};
  }
};

// Residual and branch do not cancel, so that rounding stays relative even at one channel.
Problem MakeProblem(DType dtype, int64_t tokens, int64_t width) {
  return {.residual = TestTensor::Uniform(dtype, {tokens, width}, 1, 0.5, 1.5),
          .branch = TestTensor::Normal(dtype, {tokens, width}, 2, 0.3),
          .weight = TestTensor::Uniform(dtype, {width}, 3, 0.5, 1.5),
          .d_output = TestTensor::Normal(dtype, {tokens, width}, 4),
          .d_hidden = TestTensor::Normal(dtype, {tokens, width}, 5)};
}

TestTensor PoisonedLike(const TestTensor& tensor) {
  TestTensor poisoned = tensor;
  poisoned.PoisonRows(0, tensor.View().dim(0));
  return poisoned;
}

TestTensor RowsLike(const TestTensor& tensor) {
  return TestTensor::Poisoned(tensor.View().dtype(), {tensor.View().dim(0)});
}

// Hidden, output and inverse_rms.
template <typename Op>
Outputs Forward(const Problem& p, const Op& op) {
  const TestTensor hidden = PoisonedLike(p.residual), output = PoisonedLike(p.residual);
  const TestTensor inverse_rms = RowsLike(p.residual);
  op({.residual = p.residual.View(),
      .branch = p.branch.View(),
      .branch_scale = kBranchScale,
      .weight = p.weight.View(),
      .epsilon = kEpsilon,
      .hidden = p.branch.View().empty() ? TensorView() : hidden.View(),
      .output = output.View(),
      .inverse_rms = inverse_rms.View()});
  return {p.branch.View().empty() ? p.residual : hidden, output, inverse_rms};
}

// d_residual, d_branch and d_weight (added to the weights).
template <typename Op>
Outputs Backward(const Problem& p, const Outputs& forward, const Op& op) {
  const TestTensor d_residual = PoisonedLike(p.residual), d_branch = PoisonedLike(p.residual);
  const TestTensor d_weight = p.weight;
  op({.hidden = forward[0].View(),
      .weight = p.weight.View(),
      .inverse_rms = forward[2].View(),
      .d_output = p.d_output.View(),
      .d_hidden = p.d_hidden.View(),
      .branch_scale = kBranchScale,
      .d_residual = d_residual.View(),
      .d_branch = d_branch.View(),
      .d_weight = d_weight.View()});
  return {d_residual, d_branch, d_weight};
}

const auto kForward = [](const RmsNormForwardArgs& args) {
  const TestContext context;
  EXPECT_TRUE(RmsNormForward(context, args).ok());
};
const auto kBackward = [](const RmsNormBackwardArgs& args) {
  const TestContext context;
  EXPECT_TRUE(RmsNormBackward(context, args).ok());
};

TEST(RmsNormTest, MatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const int64_t tokens : {1, 7, 130}) {
      for (const int64_t width : {1, 3, 17, 64, 100}) {
        const Problem problem = MakeProblem(dtype, tokens, width);
        const Problem exact = problem.As(DType::kFloat64);
        const Outputs forward = Forward(problem, kForward);
        const Outputs exact_forward = Forward(exact, reference::RmsNormForward);
        ExpectClose(forward, exact_forward, Bound(dtype, width));
        ExpectClose(Backward(problem, forward, kBackward),
                    Backward(exact, exact_forward, reference::RmsNormBackward),
                    Bound(dtype, width + tokens));
      }
    }
  }
}

TEST(RmsNormTest, GradientsMatchFiniteDifferences) {
  const Problem p = MakeProblem(DType::kFloat64, 7, 17);
  const auto loss = [&] {
    const Outputs out = Forward(p, kForward);
    return Dot(out[0].View(), p.d_hidden.View()) + Dot(out[1].View(), p.d_output.View());
  };
  const Outputs gradients = Backward(p, Forward(p, kForward), kBackward);
  TestTensor d_weight = gradients[2];
  for (int64_t c = 0; c < d_weight.size(); ++c) d_weight.Set(c, d_weight.At(c) - p.weight.At(c));
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.residual.View(), gradients[0].View()));
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.branch.View(), gradients[1].View()));
  EXPECT_TRUE(MatchesFiniteDifferences(loss, p.weight.View(), d_weight.View()));
}

// Columns [begin, begin + count) of a matrix or vector.
TestTensor Columns(const TestTensor& tensor, int64_t begin, int64_t count) {
  const TensorView all = tensor.View();
  const int64_t width = all.rank() == 1 ? all.dim(0) : all.dim(1), rows = all.size() / width;
  TestTensor part =
      all.rank() == 1 ? TestTensor(all.dtype(), {count}) : TestTensor(all.dtype(), {rows, count});
  for (int64_t i = 0; i < part.size(); ++i)
    part.Set(i, tensor.At(i / count * width + begin + i % count));
  return part;
}

// A part of the rows that has the sums over all parts does what the whole row does.
TEST(RmsNormTest, RowsSplitAmongRanksGiveTheWholeOnes) {
  constexpr int64_t kTokens = 130, kParts = 3, kColumns = 20;
  for (const DType dtype : kBothTypes) {
    Problem whole = MakeProblem(dtype, kTokens, kParts * kColumns);
    whole.branch = TestTensor();
    const Outputs forward = Forward(whole, kForward);
    const Outputs backward = Backward(whole, forward, kBackward);
    std::vector<Problem> parts;
    const TestContext context;
    TestTensor squares(dtype, {kTokens}), dots = squares;
    for (int64_t i = 0; i < kParts; ++i) {
      const auto columns = [&](const TestTensor& tensor) {
        return Columns(tensor, i * kColumns, kColumns);
      };
      parts.push_back({columns(whole.residual), TestTensor(), columns(whole.weight),
                       columns(whole.d_output), columns(whole.d_hidden)});
      const TensorView hidden = parts.back().residual.View();
      const TestTensor part = TestTensor::Poisoned(dtype, {kTokens});
      ASSERT_TRUE(RmsNormSums(context, {.hidden = hidden, .sums = part.View()}).ok());
      ASSERT_TRUE(Add(context, part.View(), squares.View()).ok());
      ASSERT_TRUE(RmsNormSums(context, {.hidden = hidden,
                                        .weight = parts.back().weight.View(),
                                        .d_output = parts.back().d_output.View(),
                                        .sums = part.View()})
                      .ok());
      ASSERT_TRUE(Add(context, part.View(), dots.View()).ok());
    }
    for (int64_t i = 0; i < kParts; ++i) {
      const auto columns_of = [&](const Outputs& outputs) {
        Outputs columns;
        for (const TestTensor& output : outputs)
          columns.push_back(Columns(output, i * kColumns, kColumns));
        return columns;
      };
      const Problem& part = parts[static_cast<size_t>(i)];
      const Outputs own = Forward(part, [&](RmsNormForwardArgs args) {
        args.split = {.sums = squares.View(), .width = kParts * kColumns};
        kForward(args);
      });
      const double bound = Bound(dtype, kParts * kColumns + kTokens);
      ExpectClose({own[0], own[1]}, columns_of({forward[0], forward[1]}), bound);
      ExpectClose({own[2]}, {forward[2]}, bound);
      const Outputs gradients = Backward(part, own, [&](RmsNormBackwardArgs args) {
        args.split = {.sums = dots.View(), .width = kParts * kColumns};
        kBackward(args);
      });
      ExpectClose(gradients, columns_of(backward), bound);
    }
  }
}

TEST(RmsNormTest, WithoutBranchHiddenIsTheResidual) {
  Problem problem = MakeProblem(DType::kFloat32, 7, 100);
  Problem zero_branch = problem;
  problem.branch = TestTensor();
  zero_branch.branch = TestTensor(DType::kFloat32, {7, 100});
  ExpectSameBits(Forward(problem, kForward), Forward(zero_branch, kForward));
}

TEST(RmsNormTest, HiddenMayBeTheResidual) {
  const Problem problem = MakeProblem(DType::kFloat32, 130, 100);
  const Outputs expected = Forward(problem, kForward);
  Problem in_place = problem;
  const Outputs actual = Forward(in_place, [&](RmsNormForwardArgs args) {
    args.hidden = args.residual;
    kForward(args);
  });
  ExpectSameBits({in_place.residual, actual[1], actual[2]}, expected);
}

TEST(RmsNormTest, ResidualGradientMayBeTheHiddenGradient) {
  const Problem problem = MakeProblem(DType::kFloat32, 130, 100);
  const Outputs forward = Forward(problem, kForward);
  const Outputs expected = Backward(problem, forward, kBackward);
  Problem in_place = problem;
  const Outputs actual = Backward(in_place, forward, [&](RmsNormBackwardArgs args) {
    args.d_residual = args.d_hidden;
    kBackward(args);
  });
  ExpectSameBits({in_place.d_hidden, actual[1], actual[2]}, expected);
}

TEST(RmsNormTest, GradientsNotWantedDoNotChangeTheOthers) {
  const Problem problem = MakeProblem(DType::kFloat32, 7, 100);
  const Outputs forward = Forward(problem, kForward);
  const Outputs all = Backward(problem, forward, kBackward);
  const auto with = [&](bool residual, bool branch, bool weight) {
    return Backward(problem, forward, [=](RmsNormBackwardArgs args) {
      if (!residual) args.d_residual = {};
      if (!branch) args.d_branch = {};
      if (!weight) args.d_weight = {};
      kBackward(args);
    });
  };
  ExpectSameBits({with(true, false, false)[0]}, {all[0]});
  ExpectSameBits({with(false, true, false)[1]}, {all[1]});
  ExpectSameBits({with(false, false, true)[2]}, {all[2]});
}

TEST(RmsNormTest, MissingHiddenGradientIsZero) {
  Problem problem = MakeProblem(DType::kFloat32, 7, 100);
  const Outputs forward = Forward(problem, kForward);
  problem.d_hidden = TestTensor(DType::kFloat32, {7, 100});
  const Outputs zero = Backward(problem, forward, kBackward);
  problem.d_hidden = TestTensor();
  ExpectClose(Backward(problem, forward, kBackward), zero, Bound(DType::kFloat32, 1));
}

TEST(RmsNormTest, SameBitsOnAnyThreads) {
  const Problem problem = MakeProblem(DType::kFloat32, 257, 150);
  ExpectSameBitsOnAnyThreads([&] { return Forward(problem, kForward); });
  const Outputs forward = Forward(problem, kForward);
  ExpectSameBitsOnAnyThreads([&] { return Backward(problem, forward, kBackward); });
}

}  // namespace
}  // namespace salamander
