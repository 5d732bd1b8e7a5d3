#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/head_loss.h"
#include "tests/gpu/gpu_context.h"
#include "tests/support/test_context.h"

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

struct Result {
  TestTensor d_hidden, d_head, token_losses, predictions, loss;
};

constexpr double kLossBefore = 3.0;

absl::Status Run(Loss loss, const ExecutionContext& context, const HeadCrossEntropyArgs& entropy,
                 const HeadDistillationArgs& distillation) {
  return loss == Loss::kCrossEntropy ? HeadCrossEntropy(context, entropy)
                                     : HeadDistillation(context, distillation);
}

// Runs on any device; `upload` makes its tensors, in the parameters' and the statistics' dtype.
template <typename Upload>
absl::Status RunOn(Loss loss, const ExecutionContext& context, const Problem& problem,
                   const Upload& upload, const HeadGradients& gradients,
                   const TensorView& token_losses, const TensorView& predictions,
                   const TensorView& loss_sum) {
  const TensorView hidden = upload(problem.hidden), head = upload(problem.head);
  const TensorView weights = upload(problem.weights);
  return Run(loss, context,
             {.hidden = hidden,
              .head = head,
              .logit_scale = kLogitScale,
              .targets = upload(problem.targets),
              .loss_weights = weights,
              .gradients = gradients,
              .token_losses = token_losses,
              .predictions = predictions,
              .loss_sum = loss_sum},
             {.hidden = hidden,
              .head = head,
              .logit_scale = kLogitScale,
              .teacher_hidden = upload(problem.teacher_hidden),
              .teacher_head = upload(problem.teacher_head),
              .teacher_logit_scale = kTeacherScale,
              .loss_weights = weights,
              .gradients = gradients,
              .token_losses = token_losses,
              .loss_sum = loss_sum});
}

Result RunOnGpu(Loss loss, const Problem& problem) {
  GpuContext gpu(int64_t{1} << 30, int64_t{1200} << 20);
  const TensorView hidden = problem.hidden.View(), head = problem.head.View();
  const TensorView d_hidden = gpu.Poisoned(DType::kBFloat16, {hidden.dim(0), hidden.dim(1)});
  const TensorView d_head = gpu.Zeros(DType::kFloat32, {head.dim(0), head.dim(1)});
  const TensorView token_losses = gpu.Poisoned(DType::kFloat32, {hidden.dim(0)});
  const TensorView predictions = gpu.Poisoned(DType::kInt32, {hidden.dim(0)});
  const TensorView loss_sum =
      gpu.Upload(TestTensor::Constant(DType::kFloat64, {1}, kLossBefore), DType::kFloat64);
  const auto upload = [&](const TestTensor& tensor) {
    return tensor.View().dtype() == DType::kFloat32 ? gpu.Upload(tensor, DType::kFloat32)
                                                    : gpu.Upload(tensor);
  };
  EXPECT_TRUE(RunOn(loss, gpu, problem, upload,
                    {.scale = kGradientScale, .d_hidden = d_hidden, .d_head = d_head}, token_losses,
                    predictions, loss_sum)
                  .ok());
  return {gpu.Download(d_hidden), gpu.Download(d_head), gpu.Download(token_losses),
          gpu.Download(predictions), gpu.Download(loss_sum)};
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
  EXPECT_TRUE(RunOn(
                  loss, context, problem, [](const TestTensor& tensor) { return tensor.View(); },
                  {.scale = kGradientScale,
                   .d_hidden = result.d_hidden.View(),
                   .d_head = result.d_head.View()},
                  result.token_losses.View(), result.predictions.View(), result.loss.View())
                  .ok());
  return result;
}

// A logit of order 1 to 10 is a sum of `width` products in fp32: off by some ulp, and its
// probability by as much. An exponential and the sums over the vocabulary add as little.
double LossBound(const Shape& shape) {
  return 0x1p-24 * (32.0 + 8 * std::sqrt(static_cast<double>(shape.width)));
}

// The gradient of the logits is rounded to bf16, and in d_hidden so is the result.
double GradientBound(const Shape& shape, bool is_hidden) {
  const double length = static_cast<double>(is_hidden ? shape.vocabulary : shape.tokens);
  return kBFloat16Rounding * (is_hidden ? std::sqrt(2.0) : 1.0) + LossBound(shape) +
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
       {Shape{.tokens = 1, .width = 8, .vocabulary = 2, .teacher_width = 8}, Shape{},
        Shape{.tokens = 70, .width = 33, .vocabulary = 257, .teacher_width = 7},
        Shape{.tokens = 9, .width = 16, .vocabulary = 9999, .teacher_width = 24},
        Shape{.tokens = 5, .width = 128, .vocabulary = 73448, .teacher_width = 64}}) {
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

TEST_P(HeadLossGpuTest, ChunkBoundariesAreSeamless) {
  SKIP_WITHOUT_GPU();
  const Shape shape{.tokens = 4097, .width = 8, .vocabulary = 64, .teacher_width = 8};
  Problem problem(shape);
  problem.Mask({0, 4095});
  ExpectClose(shape, RunOnGpu(GetParam(), problem), Expected(GetParam(), problem));
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
  const auto upload = [&](const TestTensor& tensor) {
    return tensor.View().dtype() == DType::kFloat32 ? gpu.Upload(tensor, DType::kFloat32)
                                                    : gpu.Upload(tensor);
  };
  const TensorView token_losses = gpu.Poisoned(DType::kFloat32, {33});
  EXPECT_TRUE(RunOn(GetParam(), gpu, problem, upload, {}, token_losses, {}, {}).ok());
  EXPECT_TRUE(BitwiseEqual(gpu.Download(token_losses).View(), all.token_losses.View()));
  // A frozen head, then a frozen trunk.
  const TensorView d_hidden = gpu.Poisoned(DType::kBFloat16, {33, 64});
  EXPECT_TRUE(RunOn(GetParam(), gpu, problem, upload,
                    {.scale = kGradientScale, .d_hidden = d_hidden, .d_head = {}}, {}, {}, {})
                  .ok());
  EXPECT_TRUE(BitwiseEqual(gpu.Download(d_hidden).View(), all.d_hidden.View()));
  const TensorView d_head = gpu.Zeros(DType::kFloat32, {1000, 64});
  EXPECT_TRUE(RunOn(GetParam(), gpu, problem, upload,
                    {.scale = kGradientScale, .d_hidden = {}, .d_head = d_head}, {}, {}, {})
                  .ok());
  EXPECT_TRUE(BitwiseEqual(gpu.Download(d_head).View(), all.d_head.View()));
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

TEST(HeadLogitsGpuTest, AreTheScaledProduct) {
  SKIP_WITHOUT_GPU();
  const Shape shape{.tokens = 9, .vocabulary = 23};
  const Problem problem(shape);
  GpuContext gpu;
  const TensorView logits = gpu.Poisoned(DType::kFloat32, {9, 23});
  ASSERT_TRUE(HeadLogits(gpu, {.hidden = gpu.Upload(problem.hidden),
                               .head = gpu.Upload(problem.head),
                               .logit_scale = kLogitScale,
                               .logits = logits})
                  .ok());
  const TestContext context;
  const TestTensor expected(DType::kFloat64, {9, 23});
  ASSERT_TRUE(HeadLogits(context, {.hidden = problem.hidden.View(),
                                   .head = problem.head.View(),
                                   .logit_scale = kLogitScale,
                                   .logits = expected.View()})
                  .ok());
  EXPECT_LE(RelativeRmse(gpu.Download(logits).View(), expected.View()), LossBound(shape));
}

}  // namespace
}  // namespace salamander
