#include "kernels/head_loss.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/head_chunk.h"
#include "kernels/memory.h"
#include "tests/reference/head_loss.h"
#include "tests/support/finite_difference.h"
#include "tests/support/played_ranks.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

struct Shape {
  int64_t tokens = 9, width = 6, vocabulary = 23, teacher_width = 5;
  DType dtype = DType::kFloat64;
};

struct Problem {
  TestTensor hidden, head, teacher_hidden, teacher_head, targets, weights;
  double logit_scale = 0.7;
  double gradient_scale = 0.25;
};

struct Result {
  TestTensor d_hidden, d_head, token_losses, predictions;
  double loss = 0.0;

  TensorView LossSum() { return TensorView::Of(&loss, {1}); }
};

Problem RandomProblem(const Shape& shape) {
  Problem problem;
  problem.hidden = TestTensor::Normal(shape.dtype, {shape.tokens, shape.width}, 1);
  problem.head = TestTensor::Normal(shape.dtype, {shape.vocabulary, shape.width}, 2);
  problem.teacher_hidden = TestTensor::Normal(shape.dtype, {shape.tokens, shape.teacher_width}, 3);
  problem.teacher_head =
      TestTensor::Normal(shape.dtype, {shape.vocabulary, shape.teacher_width}, 4);
  problem.targets = TestTensor::Integers({shape.tokens}, 5, 0, shape.vocabulary - 1);
  problem.weights = TestTensor::Uniform(DType::kFloat32, {shape.tokens}, 6, 0.5, 1.5);
  return problem;
}

// Outputs as a caller may hand them over: d_head is added to, the rest is overwritten.
Result EmptyResult(const Problem& problem) {
  const TensorView hidden = problem.hidden.View(), head = problem.head.View();
  return {TestTensor::Poisoned(hidden.dtype(), {hidden.dim(0), hidden.dim(1)}),
          TestTensor::Constant(head.dtype(), {head.dim(0), head.dim(1)}, 0.0),
          TestTensor::Poisoned(DType::kFloat32, {hidden.dim(0)}),
          TestTensor::Poisoned(DType::kInt32, {hidden.dim(0)})};
}

HeadGradients GradientsOf(const Problem& problem, const Result& result) {
  return {.scale = problem.gradient_scale,
          .d_hidden = result.d_hidden.View(),
          .d_head = result.d_head.View()};
}

Result CrossEntropy(const Problem& problem, const VocabularySplit* split = nullptr) {
  const TestContext context;
  Result result = EmptyResult(problem);
  EXPECT_TRUE(HeadCrossEntropy(context, {.hidden = problem.hidden.View(),
                                         .head = problem.head.View(),
                                         .logit_scale = problem.logit_scale,
                                         .targets = problem.targets.View(),
                                         .loss_weights = problem.weights.View(),
                                         .gradients = GradientsOf(problem, result),
                                         .token_losses = result.token_losses.View(),
                                         .predictions = result.predictions.View(),
                                         .loss_sum = result.LossSum(),
                                         .split = split})
                  .ok());
  return result;
}

Result Distillation(const Problem& problem, const VocabularySplit* split = nullptr) {
  const TestContext context;
  Result result = EmptyResult(problem);
  EXPECT_TRUE(HeadDistillation(context, {.hidden = problem.hidden.View(),
                                         .head = problem.head.View(),
                                         .logit_scale = problem.logit_scale,
                                         .teacher_hidden = problem.teacher_hidden.View(),
                                         .teacher_head = problem.teacher_head.View(),
                                         .teacher_logit_scale = 1.1,
                                         .loss_weights = problem.weights.View(),
                                         .gradients = GradientsOf(problem, result),
                                         .token_losses = result.token_losses.View(),
                                         .loss_sum = result.LossSum(),
                                         .split = split})
                  .ok());
  return result;
}

enum class Loss { kCrossEntropy, kDistillation };

Result RunLoss(Loss loss, const Problem& problem, const VocabularySplit* split = nullptr) {
  return loss == Loss::kCrossEntropy ? CrossEntropy(problem, split) : Distillation(problem, split);
}

// Of `ranks` ranks with a part of the vocabulary each, put together again.
Result RunSplit(Loss loss, const Problem& problem, int ranks) {
  const TestContext context;
  Result whole = EmptyResult(problem);
  whole.d_hidden = TestTensor(problem.hidden.View().dtype(),
                              {problem.hidden.View().dim(0), problem.hidden.View().dim(1)});
  const int64_t rows = problem.head.View().dim(0) / ranks;
  std::vector<Result> parts(static_cast<size_t>(ranks));
  PlayRanks(context, ranks, [&](const VocabularySplit& split) {
    Problem part = problem;
    for (TestTensor* const head : {&part.head, &part.teacher_head}) {
      const TensorView own = head->View().Rows(split.rank * rows, rows);
      TestTensor copy(own.dtype(), {rows, own.dim(1)});
      EXPECT_TRUE(Copy(context, own, copy.View()).ok());
      *head = copy;
    }
    parts[static_cast<size_t>(split.rank)] = RunLoss(loss, part, &split);
  });
  for (int rank = 0; rank < ranks; ++rank) {
    const Result& part = parts[static_cast<size_t>(rank)];
    EXPECT_TRUE(
        Copy(context, part.d_head.View(), whole.d_head.View().Rows(rank * rows, rows)).ok());
    EXPECT_TRUE(Add(context, part.d_hidden.View(), whole.d_hidden.View()).ok());
    EXPECT_EQ(part.loss, parts[0].loss);
    EXPECT_TRUE(BitwiseEqual(part.token_losses.View(), parts[0].token_losses.View()));
    EXPECT_TRUE(BitwiseEqual(part.predictions.View(), parts[0].predictions.View()));
  }
  whole.token_losses = parts[0].token_losses;
  whole.predictions = parts[0].predictions;
  whole.loss = parts[0].loss;
  return whole;
}

Result Reference(Loss loss, const Problem& problem) {
  const TestTensor hidden = problem.hidden.As(DType::kFloat64);
  const TestTensor head = problem.head.As(DType::kFloat64);
  const TestTensor teacher_hidden = problem.teacher_hidden.As(DType::kFloat64);
  const TestTensor teacher_head = problem.teacher_head.As(DType::kFloat64);
  const int64_t tokens = hidden.View().dim(0), vocabulary = head.View().dim(0);
  Result result = {TestTensor(DType::kFloat64, {tokens, hidden.View().dim(1)}),
                   TestTensor(DType::kFloat64, {vocabulary, head.View().dim(1)}),
                   TestTensor(DType::kFloat64, {tokens}), TestTensor(), 0.0};
  for (int64_t t = 0; t < tokens; ++t) {
    if (problem.weights.At(t) == 0) continue;
    const std::vector<double> log_q =
        reference::LogSoftmax(hidden.View(), t, head.View(), problem.logit_scale);
    std::vector<double> log_p(vocabulary, -std::numeric_limits<double>::infinity());
    if (loss == Loss::kCrossEntropy) {
      log_p[static_cast<size_t>(problem.targets.At(t))] = 0;
    } else {
      log_p = reference::LogSoftmax(teacher_hidden.View(), t, teacher_head.View(), 1.1);
    }
    double row_loss = 0;
    std::vector<double> d_logits(vocabulary);
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double p = std::exp(log_p[v]);
      if (p > 0) row_loss += p * (log_p[v] - log_q[v]);
      d_logits[v] = problem.gradient_scale * problem.weights.At(t) * (std::exp(log_q[v]) - p);
    }
    reference::AddHeadGradients(d_logits, t, problem.logit_scale, hidden.View(), head.View(),
                                result.d_hidden.View(), result.d_head.View());
    result.token_losses.Set(t, row_loss);
    result.loss += problem.weights.At(t) * row_loss;
  }
  return result;
}

void ExpectClose(const Result& actual, const Result& expected, double bound) {
  EXPECT_NEAR(actual.loss, expected.loss, bound * std::abs(expected.loss));
  EXPECT_LE(RelativeRmse(actual.d_hidden.View(), expected.d_hidden.View()), bound);
  EXPECT_LE(RelativeRmse(actual.d_head.View(), expected.d_head.View()), bound);
  // token_losses are fp32 in either dtype.
  EXPECT_LE(RelativeRmse(actual.token_losses.View(), expected.token_losses.View()),
            std::max(bound, 1e-7));
}

class HeadLossTest : public testing::TestWithParam<Loss> {};

TEST_P(HeadLossTest, EqualsTheFormula) {
  for (const Shape& shape : {Shape{.tokens = 1, .width = 1, .vocabulary = 2, .teacher_width = 1},
                             Shape{}, Shape{.tokens = 70, .width = 33, .vocabulary = 64},
                             Shape{.tokens = 5, .width = 16, .vocabulary = 5000}}) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " tokens, vocabulary " << shape.vocabulary);
    Problem problem = RandomProblem(shape);
    ExpectClose(RunLoss(GetParam(), problem), Reference(GetParam(), problem), 1e-13);
    for (TestTensor* tensor :
         {&problem.hidden, &problem.head, &problem.teacher_hidden, &problem.teacher_head}) {
      *tensor = tensor->As(DType::kFloat32);
    }
    // Logits of order 10 rounded to fp32 shift every probability by 1e-6 of itself.
    ExpectClose(RunLoss(GetParam(), problem), Reference(GetParam(), problem), 3e-6);
  }
}

TEST_P(HeadLossTest, ChunkBoundariesAreSeamless) {
  const int64_t vocabulary = 8192;
  const int64_t chunk = cpu::HeadChunkRows(vocabulary, DType::kFloat64);
  ASSERT_EQ(chunk, 64);
  for (const int64_t tokens : {chunk - 1, chunk, chunk + 1, 2 * chunk + 1}) {
    SCOPED_TRACE(tokens);
    const Problem problem = RandomProblem({.tokens = tokens, .width = 3, .vocabulary = vocabulary});
    ExpectClose(RunLoss(GetParam(), problem), Reference(GetParam(), problem), 1e-12);
  }
}

TEST_P(HeadLossTest, GradientMatchesFiniteDifferences) {
  Problem problem = RandomProblem({});
  problem.weights.Set(4, 0.0);
  problem.gradient_scale = 1.0;
  const auto forward = [&] { return RunLoss(GetParam(), problem).loss; };
  const Result result = RunLoss(GetParam(), problem);
  EXPECT_TRUE(MatchesFiniteDifferences(forward, problem.hidden.View(), result.d_hidden.View()));
  EXPECT_TRUE(MatchesFiniteDifferences(forward, problem.head.View(), result.d_head.View(),
                                       {.samples = 50}));
}

TEST_P(HeadLossTest, RowsOfWeightZeroAddExactlyNothing) {
  const Problem all = RandomProblem({.tokens = 20, .dtype = DType::kFloat32});
  Problem masked = all;
  for (const int64_t row : {0, 7, 8, 19}) {
    masked.weights.Set(row, 0.0);
    masked.hidden.PoisonRows(row, 1);
    masked.teacher_hidden.PoisonRows(row, 1);
    masked.targets.PoisonRows(row, 1);
  }
  const Result actual = RunLoss(GetParam(), masked);
  const Result expected = Reference(GetParam(), masked);
  ExpectClose(actual, expected, 3e-6);
  for (const int64_t row : {0, 7, 8, 19}) {
    EXPECT_EQ(actual.token_losses.At(row), 0.0);
    EXPECT_EQ(MaxAbsDifference(actual.d_hidden.View().Rows(row, 1),
                               expected.d_hidden.View().Rows(row, 1)),
              0.0);
  }
}

TEST_P(HeadLossTest, RanksWithAPartOfTheVocabularyGiveTheWholeOnes) {
  for (const Shape& shape : {Shape{.vocabulary = 24}, Shape{.tokens = 70, .vocabulary = 8192}}) {
    for (const int ranks : {2, 4}) {
      SCOPED_TRACE(testing::Message() << shape.vocabulary << " on " << ranks);
      Problem problem = RandomProblem(shape);
      problem.weights.Set(3, 0.0);
      ExpectClose(RunSplit(GetParam(), problem, ranks), Reference(GetParam(), problem), 1e-12);
      problem.hidden = problem.hidden.As(DType::kFloat32);
      problem.head = problem.head.As(DType::kFloat32);
      problem.teacher_hidden = problem.teacher_hidden.As(DType::kFloat32);
      problem.teacher_head = problem.teacher_head.As(DType::kFloat32);
      ExpectClose(RunSplit(GetParam(), problem, ranks), Reference(GetParam(), problem), 3e-6);
    }
  }
}

TEST_P(HeadLossTest, NothingWeightedGivesZeroLossAndNoGradient) {
  Problem problem = RandomProblem({});
  problem.weights = TestTensor(DType::kFloat32, {9});
  const Result result = RunLoss(GetParam(), problem);
  EXPECT_EQ(result.loss, 0.0);
  EXPECT_TRUE(BitwiseEqual(result.d_hidden.View(), TestTensor(DType::kFloat64, {9, 6}).View()));
  EXPECT_TRUE(BitwiseEqual(result.d_head.View(), TestTensor(DType::kFloat64, {23, 6}).View()));
}

TEST_P(HeadLossTest, LossIsAddedToWhatIsThere) {
  const Problem problem = RandomProblem({});
  const TestContext context;
  const double once = RunLoss(GetParam(), problem).loss;
  double total = 3.0;
  for (int i = 0; i < 2; ++i) {
    if (GetParam() == Loss::kCrossEntropy) {
      EXPECT_TRUE(HeadCrossEntropy(context, {.hidden = problem.hidden.View(),
                                             .head = problem.head.View(),
                                             .logit_scale = problem.logit_scale,
                                             .targets = problem.targets.View(),
                                             .loss_weights = problem.weights.View(),
                                             .gradients = {},
                                             .token_losses = {},
                                             .predictions = {},
                                             .loss_sum = TensorView::Of(&total, {1})})
                      .ok());
    } else {
      EXPECT_TRUE(HeadDistillation(context, {.hidden = problem.hidden.View(),
                                             .head = problem.head.View(),
                                             .logit_scale = problem.logit_scale,
                                             .teacher_hidden = problem.teacher_hidden.View(),
                                             .teacher_head = problem.teacher_head.View(),
                                             .teacher_logit_scale = 1.1,
                                             .loss_weights = problem.weights.View(),
                                             .gradients = {},
                                             .token_losses = {},
                                             .loss_sum = TensorView::Of(&total, {1})})
                      .ok());
    }
  }
  EXPECT_EQ(total, 3.0 + once + once);
}

TEST_P(HeadLossTest, EveryTokenCountsTheLastToo) {
  const Problem before = RandomProblem({});
  const double loss = RunLoss(GetParam(), before).loss;
  for (int64_t row = 0; row < 9; ++row) {
    Problem after = before;
    after.hidden.Set(row * 6, after.hidden.At(row * 6) + 0.5);
    EXPECT_NE(RunLoss(GetParam(), after).loss, loss) << "row " << row;
  }
}

TEST_P(HeadLossTest, TwoRunsGiveTheSameBits) {
  const Problem problem =
      RandomProblem({.tokens = 150, .width = 48, .vocabulary = 1000, .dtype = DType::kFloat32});
  const Result first = RunLoss(GetParam(), problem);
  const Result second = RunLoss(GetParam(), problem);
  EXPECT_EQ(first.loss, second.loss);
  EXPECT_TRUE(BitwiseEqual(first.d_hidden.View(), second.d_hidden.View()));
  EXPECT_TRUE(BitwiseEqual(first.d_head.View(), second.d_head.View()));
}

TEST_P(HeadLossTest, SameBitsOnAnyThreads) {
  const Problem problem =
      RandomProblem({.tokens = 150, .width = 48, .vocabulary = 1000, .dtype = DType::kFloat32});
  Result one;
  {
    const ScopedThreadCount threads(1);
    one = RunLoss(GetParam(), problem);
  }
  const ScopedThreadCount threads(2);
  const Result two = RunLoss(GetParam(), problem);
  EXPECT_EQ(one.loss, two.loss);
  EXPECT_TRUE(BitwiseEqual(two.d_hidden.View(), one.d_hidden.View()));
  EXPECT_TRUE(BitwiseEqual(two.d_head.View(), one.d_head.View()));
}

TEST_P(HeadLossTest, LargeLogitsDoNotOverflow) {
  Problem problem = RandomProblem({.dtype = DType::kFloat32});
  problem.logit_scale = 1000.0;
  const Result result = RunLoss(GetParam(), problem);
  EXPECT_TRUE(std::isfinite(result.loss));
  EXPECT_GT(result.loss, 100.0);
  EXPECT_FALSE(std::isnan(Dot(result.d_hidden.View(), result.d_hidden.View())));
}

INSTANTIATE_TEST_SUITE_P(Losses, HeadLossTest,
                         testing::Values(Loss::kCrossEntropy, Loss::kDistillation),
                         [](const testing::TestParamInfo<Loss>& loss) {
                           return loss.param == Loss::kCrossEntropy ? "CrossEntropy"
                                                                    : "Distillation";
                         });

TEST(HeadCrossEntropyTest, PredictsTheLowestOfEqualLargest) {
  Problem problem = RandomProblem({.tokens = 3, .width = 2, .vocabulary = 40});
  problem.head = TestTensor(DType::kFloat64, {40, 2});
  problem.hidden = TestTensor::Of(DType::kFloat64, {3, 2}, {1, 0, 0, 1, 1, 1});
  problem.head.Set(2 * 11, 3.0);      // row 11: (3, 0)
  problem.head.Set(2 * 35, 3.0);      // row 35: (3, 0)
  problem.head.Set(2 * 39 + 1, 1.0);  // row 39: (0, 1)
  problem.weights.Set(2, 0.0);
  const Result result = CrossEntropy(problem);
  EXPECT_EQ(result.predictions.At(0), 11);
  EXPECT_EQ(result.predictions.At(1), 39);
  EXPECT_EQ(result.predictions.At(2), -1);
}

TEST(HeadCrossEntropyTest, PredictsTheLowestOfEqualLargestOfAllParts) {
  Problem problem = RandomProblem({.tokens = 3, .width = 2, .vocabulary = 40});
  problem.head = TestTensor(DType::kFloat64, {40, 2});
  problem.hidden = TestTensor::Of(DType::kFloat64, {3, 2}, {1, 0, 0, 1, 1, 1});
  problem.head.Set(2 * 11, 3.0);      // row 11 of rank 1's
  problem.head.Set(2 * 35, 3.0);      // row 35 of rank 3's
  problem.head.Set(2 * 39 + 1, 1.0);  // row 39
  problem.weights.Set(2, 0.0);
  const Result result = RunSplit(Loss::kCrossEntropy, problem, 4);
  EXPECT_EQ(result.predictions.At(0), 11);
  EXPECT_EQ(result.predictions.At(1), 39);
  EXPECT_EQ(result.predictions.At(2), -1);
}

TEST(HeadCrossEntropyTest, TargetOutsideTheVocabularyIsNamedUnlessItsWeightIsZero) {
  Problem problem = RandomProblem({});
  const TestContext context;
  double loss = 0;
  const auto run = [&] {
    return HeadCrossEntropy(context, {.hidden = problem.hidden.View(),
                                      .head = problem.head.View(),
                                      .logit_scale = 1.0,
                                      .targets = problem.targets.View(),
                                      .loss_weights = problem.weights.View(),
                                      .gradients = {},
                                      .token_losses = {},
                                      .predictions = {},
                                      .loss_sum = TensorView::Of(&loss, {1})});
  };
  for (const int32_t outside : {-1, 23}) {
    problem.targets.View().data<int32_t>()[8] = outside;
    const absl::Status status = run();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("targets[8]"), absl::string_view::npos) << status;
  }
  problem.weights.View().data<float>()[8] = 0;
  EXPECT_TRUE(run().ok());
}

TEST(HeadCrossEntropyTest, HeadGradientIsAddedToWhatIsThere) {
  const Problem problem = RandomProblem({});
  const TestContext context;
  const Result once = CrossEntropy(problem);
  const TestTensor d_head = TestTensor::Constant(DType::kFloat64, {23, 6}, 10.0);
  // No d_hidden: a frozen trunk.
  EXPECT_TRUE(HeadCrossEntropy(
                  context, {.hidden = problem.hidden.View(),
                            .head = problem.head.View(),
                            .logit_scale = problem.logit_scale,
                            .targets = problem.targets.View(),
                            .loss_weights = problem.weights.View(),
                            .gradients = {.scale = 0.25, .d_hidden = {}, .d_head = d_head.View()},
                            .token_losses = {},
                            .predictions = {},
                            .loss_sum = {}})
                  .ok());
  for (int64_t i = 0; i < d_head.size(); ++i) {
    EXPECT_NEAR(d_head.At(i), 10.0 + once.d_head.At(i), 1e-14);
  }
}

TEST(HeadDistillationTest, EqualModelsHaveNoLossAndNoGradientExactly) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    Problem problem = RandomProblem({.tokens = 33, .vocabulary = 3001, .dtype = dtype});
    problem.teacher_hidden = problem.hidden;
    problem.teacher_head = problem.head;
    problem.logit_scale = 1.1;
    const Result result = Distillation(problem);
    EXPECT_EQ(result.loss, 0.0);
    EXPECT_EQ(Dot(result.d_hidden.View(), result.d_hidden.View()), 0.0);
    EXPECT_EQ(Dot(result.d_head.View(), result.d_head.View()), 0.0);
  }
}

TEST(HeadDistillationTest, ScratchDoesNotGrowWithTokens) {
  const auto peak_of = [](int64_t tokens) {
    TestContext context;
    const Problem problem =
        RandomProblem({.tokens = tokens, .width = 2, .vocabulary = 1 << 14, .teacher_width = 2});
    const Result result = EmptyResult(problem);
    double loss = 0;
    EXPECT_TRUE(HeadDistillation(context, {.hidden = problem.hidden.View(),
                                           .head = problem.head.View(),
                                           .teacher_hidden = problem.teacher_hidden.View(),
                                           .teacher_head = problem.teacher_head.View(),
                                           .loss_weights = problem.weights.View(),
                                           .gradients = GradientsOf(problem, result),
                                           .token_losses = {},
                                           .loss_sum = TensorView::Of(&loss, {1})})
                    .ok());
    return context.arena().peak_bytes();
  };
  EXPECT_EQ(peak_of(400), peak_of(64));
}

TEST(HeadLogitsTest, AreTheScaledProduct) {
  const Problem problem = RandomProblem({});
  const TestContext context;
  const TestTensor logits = TestTensor::Poisoned(DType::kFloat64, {9, 23});
  EXPECT_TRUE(HeadLogits(context, {.hidden = problem.hidden.View(),
                                   .head = problem.head.View(),
                                   .logit_scale = 0.7,
                                   .logits = logits.View()})
                  .ok());
  for (int64_t t = 0; t < 9; ++t) {
    for (int64_t v = 0; v < 23; ++v) {
      double sum = 0;
      for (int64_t c = 0; c < 6; ++c)
        sum += problem.hidden.At(t * 6 + c) * problem.head.At(v * 6 + c);
      EXPECT_NEAR(logits.At(t * 23 + v), 0.7 * sum, 1e-13);
    }
  }
}

}  // namespace
}  // namespace salamander
