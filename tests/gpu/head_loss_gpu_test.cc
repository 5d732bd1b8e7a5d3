#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/head_loss.h"
#include "tests/gpu/row_ops.h"
#include "tests/support/played_ranks.h"

namespace salamander {
namespace {

enum class Loss { kCrossEntropy, kDistillation };

struct Shape {
  int64_t tokens = 33, width = 64, vocabulary = 1000, teacher_width = 48;
};

constexpr double kLogitScale = 0.7, kTeacherScale = 1.1, kGradientScale = 0.25;

// Inputs as the device sees them, in fp64. Logits have a deviation near 1.
struct Problem {
  TestTensor hidden, head, teacher_hidden, teacher_head, targets, weights;

  explicit Problem(const Shape& s)
      : hidden(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 1))),
        head(Rounded(TestTensor::Normal(DType::kFloat64, {s.vocabulary, s.width}, 2,
                                        1.0 / std::sqrt(static_cast<double>(s.width))))),
        teacher_hidden(
            Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.teacher_width}, 3))),
        teacher_head(
            Rounded(TestTensor::Normal(DType::kFloat64, {s.vocabulary, s.teacher_width}, 4,
                                       1.0 / std::sqrt(static_cast<double>(s.teacher_width))))),
        targets(TestTensor::Integers({s.tokens}, 5, 0, s.vocabulary - 1)),
        weights(TestTensor::Uniform(DType::kFloat32, {s.tokens}, 6, 0.5, 1.5)) {}

  // NaN, and a target that is none, in rows that do not count.
  void Mask(std::initializer_list<int64_t> rows) {
    for (const int64_t row : rows) {
      weights.Set(row, 0.0);
      hidden.PoisonRows(row, 1);
      teacher_hidden.PoisonRows(row, 1);
      targets.PoisonRows(row, 1);
    }
  }
};

// A problem's tensors where an op runs: rows [T, ...] and heads [V, ...].
struct Inputs {
  TensorView hidden, head, teacher_hidden, teacher_head, targets, weights;
};

Inputs OnCpu(const Problem& p) {
  return {.hidden = p.hidden.View(),
          .head = p.head.View(),
          .teacher_hidden = p.teacher_hidden.View(),
          .teacher_head = p.teacher_head.View(),
          .targets = p.targets.View(),
          .weights = p.weights.View()};
}

// The rows that a long stream's sample leaves out have no weight.
Inputs OnGpu(GpuContext& gpu, const Problem& p, Place place = Place::kAligned) {
  return {.hidden = UploadRows(gpu, place, p.hidden),
          .head = gpu.Upload(p.head),
          .teacher_hidden = UploadRows(gpu, place, p.teacher_hidden),
          .teacher_head = gpu.Upload(p.teacher_head),
          .targets = UploadRows(gpu, place, p.targets),
          .weights = UploadRows(gpu, place, p.weights, DType::kFloat32)};
}

// What is wanted of a loss.
struct Results {
  HeadGradients gradients = {.scale = kGradientScale, .d_hidden = {}, .d_head = {}};
  TensorView token_losses, predictions, loss_sum;
  const VocabularySplit* split = nullptr;
};

absl::Status RunLoss(Loss loss, const ExecutionContext& context, const Inputs& inputs,
                     const Results& results) {
  if (loss == Loss::kCrossEntropy) {
    return HeadCrossEntropy(context, {.hidden = inputs.hidden,
                                      .head = inputs.head,
                                      .logit_scale = kLogitScale,
                                      .targets = inputs.targets,
                                      .loss_weights = inputs.weights,
                                      .gradients = results.gradients,
                                      .token_losses = results.token_losses,
                                      .predictions = results.predictions,
                                      .loss_sum = results.loss_sum,
                                      .split = results.split});
  }
  return HeadDistillation(context, {.hidden = inputs.hidden,
                                    .head = inputs.head,
                                    .logit_scale = kLogitScale,
                                    .teacher_hidden = inputs.teacher_hidden,
                                    .teacher_head = inputs.teacher_head,
                                    .teacher_logit_scale = kTeacherScale,
                                    .loss_weights = inputs.weights,
                                    .gradients = results.gradients,
                                    .token_losses = results.token_losses,
                                    .loss_sum = results.loss_sum,
                                    .split = results.split});
}

struct Result {
  TestTensor d_hidden, d_head, token_losses, predictions, loss;
};

constexpr double kLossBefore = 3.0;

Result RunOnGpu(Loss loss, const Problem& problem, GpuContext& gpu, Place place) {
  const TensorView head = problem.head.View();
  const TestTensor per_row(DType::kFloat32, {problem.weights.size()});
  const Results results = {
      .gradients = {.scale = kGradientScale,
                    .d_hidden = PoisonedRows(gpu, place, problem.hidden),
                    .d_head = gpu.Zeros(DType::kFloat32, {head.dim(0), head.dim(1)})},
      .token_losses = PoisonedRows(gpu, place, per_row, DType::kFloat32),
      .predictions = PoisonedRows(gpu, place, per_row, DType::kInt32),
      .loss_sum =
          gpu.Upload(TestTensor::Constant(DType::kFloat64, {1}, kLossBefore), DType::kFloat64)};
  EXPECT_TRUE(RunLoss(loss, gpu, OnGpu(gpu, problem, place), results).ok());
  return {DownloadRows(gpu, place, results.gradients.d_hidden),
          gpu.Download(results.gradients.d_head), DownloadRows(gpu, place, results.token_losses),
          DownloadRows(gpu, place, results.predictions), gpu.Download(results.loss_sum)};
}

constexpr int64_t kScratchBytes = int64_t{1200} << 20;  // a chunk of logits and their gradients

Result RunOnGpu(Loss loss, const Problem& problem) {
  GpuContext gpu(int64_t{1} << 30, kScratchBytes);
  return RunOnGpu(loss, problem, gpu, Place::kAligned);
}

// The CPU's op in fp64, which tests/kernels/head_loss_test.cc holds to the formula.
Result Expected(Loss loss, const Problem& problem) {
  const TensorView hidden = problem.hidden.View(), head = problem.head.View();
  Result result = {TestTensor(DType::kFloat64, {hidden.dim(0), hidden.dim(1)}),
                   TestTensor(DType::kFloat64, {head.dim(0), head.dim(1)}),
                   TestTensor(DType::kFloat32, {hidden.dim(0)}),
                   TestTensor(DType::kInt32, {hidden.dim(0)}),
                   TestTensor::Constant(DType::kFloat64, {1}, kLossBefore)};
  const TestContext context;
  EXPECT_TRUE(RunLoss(loss, context, OnCpu(problem),
                      {.gradients = {.scale = kGradientScale,
                                     .d_hidden = result.d_hidden.View(),
                                     .d_head = result.d_head.View()},
                       .token_losses = result.token_losses.View(),
                       .predictions = result.predictions.View(),
                       .loss_sum = result.loss.View()})
                  .ok());
  return result;
}

// A logit of order 1 to 10 is a sum of `width` products in fp32: off by some ulp, and its
// probability by as much. An exponential and the sums over the vocabulary add as little.
double LossBound(const Shape& shape) {
  return 0x1p-24 * (32.0 + 8 * std::sqrt(static_cast<double>(shape.width)));
}

// The gradient of the logits is rounded to bf16, and in d_hidden so is the result. The rms of a
// rounding is kBFloat16Rounding over many elements; a few may all meet the worst case, twice that.
double GradientBound(const Shape& shape, bool is_hidden) {
  const double length = static_cast<double>(is_hidden ? shape.vocabulary : shape.tokens);
  const int64_t elements = shape.width * (is_hidden ? shape.tokens : shape.vocabulary);
  const double rounding = (elements < 1024 ? 2.0 : 1.0) * kBFloat16Rounding;
  return rounding * (is_hidden ? std::sqrt(2.0) : 1.0) + LossBound(shape) +
         0x1p-24 * std::sqrt(length);
}

void ExpectClose(const Shape& shape, const Result& actual, const Result& expected) {
  const double bound = LossBound(shape);
  EXPECT_NEAR(actual.loss.At(0), expected.loss.At(0),
              bound * std::max(1.0, std::abs(expected.loss.At(0))));
  EXPECT_LE(RelativeRmse(actual.token_losses.View(), expected.token_losses.View()), bound);
  EXPECT_LE(RelativeRmse(actual.d_hidden.View(), expected.d_hidden.View()),
            GradientBound(shape, true));
  EXPECT_LE(RelativeRmse(actual.d_head.View(), expected.d_head.View()),
            GradientBound(shape, false));
}

class HeadLossGpuTest : public testing::TestWithParam<Loss> {};

TEST_P(HeadLossGpuTest, MatchesTheCpuInFp64) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape :
       {Shape{.tokens = 1, .width = 1, .vocabulary = 1, .teacher_width = 1},
        Shape{.tokens = 1, .width = 8, .vocabulary = 2, .teacher_width = 8}, Shape{},
        Shape{.tokens = 70, .width = 33, .vocabulary = 257, .teacher_width = 7},
        Shape{.tokens = 9, .width = 16, .vocabulary = 9999, .teacher_width = 24},
        Shape{.tokens = 5, .width = 128, .vocabulary = 73448, .teacher_width = 64},
        Shape{.tokens = 2, .width = 8, .vocabulary = 262'144, .teacher_width = 8}}) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " tokens, vocabulary " << shape.vocabulary);
    const Problem problem(shape);
    const Result actual = RunOnGpu(GetParam(), problem);
    const Result expected = Expected(GetParam(), problem);
    ExpectClose(shape, actual, expected);
    if (GetParam() == Loss::kCrossEntropy) {
      EXPECT_TRUE(BitwiseEqual(actual.predictions.View(), expected.predictions.View()));
    }
  }
}

TEST_P(HeadLossGpuTest, LongStreamMatchesTheCpuInFp64) {
  constexpr int64_t kTensors = 3;
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const Shape shape{
      .tokens = kSampledRows, .width = kLongWidth, .vocabulary = 64, .teacher_width = kLongWidth};
  Problem problem(shape);
  problem.Mask({3, 12});
  GpuContext gpu(LongTensorBytes(kTensors), kScratchBytes);
  ExpectClose(shape, RunOnGpu(GetParam(), problem, gpu, Place::kLong),
              Expected(GetParam(), problem));
}

TEST_P(HeadLossGpuTest, ChunkBoundariesAreSeamless) {
  SKIP_WITHOUT_GPU();
  const Shape shape{.tokens = 4097, .width = 8, .vocabulary = 64, .teacher_width = 8};
  Problem problem(shape);
  problem.Mask({0, 4095});
  ExpectClose(shape, RunOnGpu(GetParam(), problem), Expected(GetParam(), problem));
}

TEST_P(HeadLossGpuTest, RanksWithAPartOfTheVocabularyMatchTheCpuInFp64) {
  SKIP_WITHOUT_GPU();
  constexpr int kRanks = 4;
  for (const Shape& shape : {Shape{.tokens = 1, .width = 8, .vocabulary = 4, .teacher_width = 8},
                             Shape{.tokens = 4097, .width = 8, .vocabulary = 64},
                             Shape{.tokens = 70, .width = 33, .vocabulary = 256},
                             Shape{.tokens = 5, .width = 128, .vocabulary = 73448}}) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " tokens, vocabulary " << shape.vocabulary);
    Problem problem(shape);
    if (shape.tokens > 1000) problem.Mask({0, 4095});
    const Result expected = Expected(GetParam(), problem);
    GpuContext gpu(int64_t{1} << 30, kScratchBytes);
    const Inputs whole = OnGpu(gpu, problem);
    const int64_t rows = shape.vocabulary / kRanks;
    Result actual = {TestTensor(DType::kFloat64, {shape.tokens, shape.width}),
                     TestTensor(DType::kFloat32, {shape.vocabulary, shape.width}),
                     {},
                     {},
                     {}};
    std::vector<Result> parts(kRanks);
    PlayRanks(gpu, kRanks, [&](const VocabularySplit& split) {
      Inputs part = whole;
      part.head = whole.head.Rows(split.rank * rows, rows);
      part.teacher_head = whole.teacher_head.Rows(split.rank * rows, rows);
      const Results results = {
          .gradients = {.scale = kGradientScale,
                        .d_hidden = gpu.Poisoned(DType::kBFloat16, {shape.tokens, shape.width}),
                        .d_head = gpu.Zeros(DType::kFloat32, {rows, shape.width})},
          .token_losses = gpu.Poisoned(DType::kFloat32, {shape.tokens}),
          .predictions = gpu.Poisoned(DType::kInt32, {shape.tokens}),
          .loss_sum =
              gpu.Upload(TestTensor::Constant(DType::kFloat64, {1}, kLossBefore), DType::kFloat64),
          .split = &split};
      EXPECT_TRUE(RunLoss(GetParam(), gpu, part, results).ok());
      parts[static_cast<size_t>(split.rank)] = {
          gpu.Download(results.gradients.d_hidden), gpu.Download(results.gradients.d_head),
          gpu.Download(results.token_losses), gpu.Download(results.predictions),
          gpu.Download(results.loss_sum)};
    });
    for (int rank = 0; rank < kRanks; ++rank) {
      const Result& part = parts[static_cast<size_t>(rank)];
      for (int64_t i = 0; i < part.d_head.size(); ++i)
        actual.d_head.Set(rank * part.d_head.size() + i, part.d_head.At(i));
      for (int64_t i = 0; i < part.d_hidden.size(); ++i)
        actual.d_hidden.Set(i, actual.d_hidden.At(i) + part.d_hidden.At(i));
      EXPECT_TRUE(BitwiseEqual(part.loss.View(), parts[0].loss.View()));
      EXPECT_TRUE(BitwiseEqual(part.token_losses.View(), parts[0].token_losses.View()));
      EXPECT_TRUE(BitwiseEqual(part.predictions.View(), parts[0].predictions.View()));
    }
    actual.loss = parts[0].loss;
    actual.token_losses = parts[0].token_losses;
    ExpectClose(shape, actual, expected);
    if (GetParam() == Loss::kCrossEntropy) {
      EXPECT_TRUE(BitwiseEqual(parts[0].predictions.View(), expected.predictions.View()));
    }
  }
}

TEST_P(HeadLossGpuTest, RowsOfWeightZeroAddExactlyNothing) {
  SKIP_WITHOUT_GPU();
  const Shape shape{.tokens = 40};
  Problem problem(shape);
  const std::initializer_list<int64_t> masked = {0, 7, 8, 39};
  problem.Mask(masked);
  const Result actual = RunOnGpu(GetParam(), problem);
  ExpectClose(shape, actual, Expected(GetParam(), problem));
  for (const int64_t row : masked) {
    EXPECT_EQ(actual.token_losses.At(row), 0.0);
    if (GetParam() == Loss::kCrossEntropy) {
      EXPECT_EQ(actual.predictions.At(row), -1);
    }
    EXPECT_EQ(Dot(actual.d_hidden.View().Rows(row, 1), actual.d_hidden.View().Rows(row, 1)), 0.0);
  }
}

TEST_P(HeadLossGpuTest, NothingWeightedGivesZeroLossAndNoGradient) {
  SKIP_WITHOUT_GPU();
  Problem problem(Shape{.tokens = 3});
  problem.Mask({0, 1, 2});
  const Result result = RunOnGpu(GetParam(), problem);
  EXPECT_EQ(result.loss.At(0), kLossBefore);
  EXPECT_EQ(Dot(result.d_hidden.View(), result.d_hidden.View()), 0.0);
  EXPECT_EQ(Dot(result.d_head.View(), result.d_head.View()), 0.0);
}

TEST_P(HeadLossGpuTest, EveryRowCountsAndOnlyForItself) {
  SKIP_WITHOUT_GPU();
  const Problem before(Shape{.tokens = 9});
  const Result first = RunOnGpu(GetParam(), before);
  for (const int64_t row : {0, 4, 8}) {
    Problem after = before;
    after.hidden.Set(row * 64, after.hidden.At(row * 64) + 1.0);
    const Result second = RunOnGpu(GetParam(), after);
    EXPECT_NE(second.loss.At(0), first.loss.At(0));
    for (int64_t t = 0; t < 9; ++t) {
      EXPECT_EQ(second.token_losses.At(t) != first.token_losses.At(t), t == row) << "row " << t;
    }
  }
}

TEST_P(HeadLossGpuTest, TwoRunsGiveTheSameBits) {
  SKIP_WITHOUT_GPU();
  const Problem problem(Shape{.tokens = 300, .width = 128, .vocabulary = 9001});
  const Result first = RunOnGpu(GetParam(), problem);
  const Result second = RunOnGpu(GetParam(), problem);
  EXPECT_TRUE(BitwiseEqual(first.loss.View(), second.loss.View()));
  EXPECT_TRUE(BitwiseEqual(first.token_losses.View(), second.token_losses.View()));
  EXPECT_TRUE(BitwiseEqual(first.d_hidden.View(), second.d_hidden.View()));
  EXPECT_TRUE(BitwiseEqual(first.d_head.View(), second.d_head.View()));
}

TEST_P(HeadLossGpuTest, LargeLogitsDoNotOverflow) {
  SKIP_WITHOUT_GPU();
  Problem problem((Shape()));
  for (int64_t i = 0; i < problem.head.size(); ++i) problem.head.Set(i, 1024 * problem.head.At(i));
  const Result result = RunOnGpu(GetParam(), problem);
  EXPECT_TRUE(std::isfinite(result.loss.At(0)));
  EXPECT_GT(result.loss.At(0), 100.0);
  EXPECT_FALSE(std::isnan(Dot(result.d_hidden.View(), result.d_hidden.View())));
  EXPECT_FALSE(std::isnan(Dot(result.d_head.View(), result.d_head.View())));
}

TEST_P(HeadLossGpuTest, NothingIsWrittenWhereNothingIsWanted) {
  SKIP_WITHOUT_GPU();
  const Problem problem((Shape()));
  const Result all = RunOnGpu(GetParam(), problem);
  GpuContext gpu;
  const Inputs inputs = OnGpu(gpu, problem);
  Results losses;
  losses.token_losses = gpu.Poisoned(DType::kFloat32, {33});
  EXPECT_TRUE(RunLoss(GetParam(), gpu, inputs, losses).ok());
  EXPECT_TRUE(BitwiseEqual(gpu.Download(losses.token_losses).View(), all.token_losses.View()));
  Results with_frozen_head;
  with_frozen_head.gradients.d_hidden = gpu.Poisoned(DType::kBFloat16, {33, 64});
  EXPECT_TRUE(RunLoss(GetParam(), gpu, inputs, with_frozen_head).ok());
  EXPECT_TRUE(
      BitwiseEqual(gpu.Download(with_frozen_head.gradients.d_hidden).View(), all.d_hidden.View()));
  Results with_frozen_trunk;
  with_frozen_trunk.gradients.d_head = gpu.Zeros(DType::kFloat32, {1000, 64});
  EXPECT_TRUE(RunLoss(GetParam(), gpu, inputs, with_frozen_trunk).ok());
  EXPECT_TRUE(
      BitwiseEqual(gpu.Download(with_frozen_trunk.gradients.d_head).View(), all.d_head.View()));
}

INSTANTIATE_TEST_SUITE_P(Losses, HeadLossGpuTest,
                         testing::Values(Loss::kCrossEntropy, Loss::kDistillation),
                         [](const testing::TestParamInfo<Loss>& loss) {
                           return loss.param == Loss::kCrossEntropy ? "CrossEntropy"
                                                                    : "Distillation";
                         });

TEST(HeadCrossEntropyGpuTest, PredictsTheLowestOfEqualLargest) {
  SKIP_WITHOUT_GPU();
  // Further apart than one pass of a block over the row.
  Problem problem(Shape{.tokens = 3, .width = 8, .vocabulary = 20000});
  problem.hidden = TestTensor::Constant(DType::kFloat64, {3, 8}, 1.0);
  problem.hidden.Set(8, 9.0);
  problem.head = TestTensor::Constant(DType::kFloat64, {20000, 8}, 0.0);
  for (const int64_t row : {11, 12, 13, 2059, 9000, 19999}) problem.head.Set(row * 8, 1.0);
  problem.head.Set(17 * 8 + 1, 1.0);  // row 17 as well, for hidden row 0 alone
  problem.weights.Set(2, 0.0);
  const Result result = RunOnGpu(Loss::kCrossEntropy, problem);
  EXPECT_EQ(result.predictions.At(0), 11);
  EXPECT_EQ(result.predictions.At(1), 11);
  EXPECT_EQ(result.predictions.At(2), -1);
}

TEST(HeadCrossEntropyGpuTest, TargetOutsideTheVocabularyIsNamedAtTheNextWait) {
  SKIP_WITHOUT_GPU();
  for (const int32_t outside : {-1, 1000}) {
    Problem problem((Shape()));
    problem.targets.View().data<int32_t>()[8] = outside;
    GpuContext gpu;
    const TensorView loss = gpu.Zeros(DType::kFloat64, {1});
    ASSERT_TRUE(HeadCrossEntropy(gpu, {.hidden = gpu.Upload(problem.hidden),
                                       .head = gpu.Upload(problem.head),
                                       .targets = gpu.Upload(problem.targets),
                                       .loss_weights = gpu.Upload(problem.weights, DType::kFloat32),
                                       .gradients = {},
                                       .token_losses = {},
                                       .predictions = {},
                                       .loss_sum = loss})
                    .ok());
    const absl::Status status = gpu.Wait();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("row 8"), absl::string_view::npos) << status;
    EXPECT_TRUE(gpu.Wait().ok());
  }
}

TEST(HeadDistillationGpuTest, EqualModelsHaveNoLossAndNoGradientExactly) {
  SKIP_WITHOUT_GPU();
  const Problem problem(Shape{.vocabulary = 3001});
  GpuContext gpu;
  const TensorView hidden = gpu.Upload(problem.hidden), head = gpu.Upload(problem.head);
  const TensorView loss = gpu.Zeros(DType::kFloat64, {1});
  const TensorView d_hidden = gpu.Poisoned(DType::kBFloat16, {33, 64});
  ASSERT_TRUE(
      HeadDistillation(gpu, {.hidden = hidden,
                             .head = head,
                             .teacher_hidden = hidden,
                             .teacher_head = head,
                             .loss_weights = gpu.Upload(problem.weights, DType::kFloat32),
                             .gradients = {.scale = 1.0, .d_hidden = d_hidden, .d_head = {}},
                             .token_losses = {},
                             .loss_sum = loss})
          .ok());
  EXPECT_EQ(gpu.Download(loss).At(0), 0.0);
  const TestTensor gradient = gpu.Download(d_hidden);
  EXPECT_EQ(Dot(gradient.View(), gradient.View()), 0.0);
}

Outputs LogitsOnGpu(GpuContext& gpu, Place place, const Problem& problem) {
  const TestTensor like(DType::kFloat32,
                        {problem.hidden.View().dim(0), problem.head.View().dim(0)});
  const Inputs inputs = OnGpu(gpu, problem, place);
  const TensorView logits = PoisonedRows(gpu, place, like, DType::kFloat32);
  EXPECT_TRUE(HeadLogits(gpu, {.hidden = inputs.hidden,
                               .head = inputs.head,
                               .logit_scale = kLogitScale,
                               .logits = logits})
                  .ok());
  return {DownloadRows(gpu, place, logits)};
}

Outputs LogitsInDouble(const Problem& problem) {
  const TestContext context;
  const TestTensor logits(DType::kFloat64,
                          {problem.hidden.View().dim(0), problem.head.View().dim(0)});
  EXPECT_TRUE(HeadLogits(context, {.hidden = problem.hidden.View(),
                                   .head = problem.head.View(),
                                   .logit_scale = kLogitScale,
                                   .logits = logits.View()})
                  .ok());
  return {logits};
}

TEST(HeadLogitsGpuTest, AreTheScaledProductAndRepeatBitForBit) {
  SKIP_WITHOUT_GPU();
  const Shape shape{.tokens = 9, .vocabulary = 23};
  const Problem problem(shape);
  GpuContext gpu;
  const Outputs actual = LogitsOnGpu(gpu, Place::kAligned, problem);
  ExpectWithin(actual, LogitsInDouble(problem), {LossBound(shape)});
  ExpectSameBits(LogitsOnGpu(gpu, Place::kAligned, problem), actual);
}

TEST(HeadLogitsGpuTest, LongStreamIsTheScaledProduct) {
  constexpr int64_t kTensors = 3;  // one in fp32 counts twice
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const Shape shape{
      .tokens = kSampledRows, .width = 40, .vocabulary = kLongWidth, .teacher_width = 40};
  const Problem problem(shape);
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return LogitsOnGpu(gpu, place, problem); }, kTensors,
      LogitsInDouble(problem), {LossBound(shape)});
}

}  // namespace
}  // namespace salamander
