#include "trainer/step/objective.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "tests/support/finite_difference.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "trainer/step/train_step.h"

namespace salamander {
namespace {

constexpr int64_t kLayers = 3;
constexpr int32_t kPaddingToken = 23;  // no document holds it

ModelConfig CandidatesConfig() {
  ModelConfig config = TinyDenseConfig(kLayers);
  auto candidates = CandidateConfig(config);
  SALAMANDER_CHECK(candidates.ok());
  return *candidates;
}

ParameterBuffer Zeros(const TinyModel& model, DType dtype) {
  auto buffer = ParameterBuffer::Create(model.weights.layout, dtype);
  SALAMANDER_CHECK(buffer.ok());
  return *std::move(buffer);
}

// Two sequences of two documents each, the second with padding behind it.
PackedStream TwoSequences() {
  SplitMix random(77);
  PackedStream stream;
  for (const int64_t length : {14, 9, 20, 5}) {
    std::vector<int32_t> tokens;
    for (int64_t index = 0; index < length; ++index)
      tokens.push_back(static_cast<int32_t>(random.Integer(0, 22)));
    AppendPiece(tokens, -1, {}, &stream);
  }
  AppendPadding(7, kPaddingToken, &stream);
  return stream;
}
constexpr int64_t kRealTokens = 48;

enum class Kind { kLanguageModel, kDistillation, kAlignment };

std::string NameOf(Kind kind) {
  switch (kind) {
    case Kind::kLanguageModel:
      return "LanguageModel";
    case Kind::kDistillation:
      return "Distillation";
    case Kind::kAlignment:
      return "Alignment";
  }
  return "";
}

// One objective on the models it needs.
struct Problem {
  Problem(Kind objective_kind, DType dtype)
      : kind(objective_kind),
        model(kind == Kind::kAlignment ? CandidatesConfig() : TinyHybridConfig(kLayers, {1}), dtype,
              41),
        teacher(TinyDenseConfig(kLayers), dtype, 42),
        gradients(Zeros(model, dtype)),
        stream(TwoSequences()) {
    switch (kind) {
      case Kind::kLanguageModel:
        objective = LanguageModelObjective(model.transformer);
        break;
      case Kind::kDistillation:
        objective = DistillationObjective(model.transformer, teacher.transformer);
        break;
      case Kind::kAlignment:
        objective = AlignmentObjective(model.transformer);
        break;
    }
  }

  ModelTensors GradientViews() const {
    return BindTensors(model.transformer.config(), model.weights.layout, gradients);
  }
  double Loss(const ModelTensors* gradient_views = nullptr, double gradient_scale = 1.0) {
    double sum = 0.0;
    const absl::Status status = Accumulate(*objective, &sum, gradient_views, gradient_scale);
    SALAMANDER_CHECK(status.ok()) << status.ToString();
    return sum * objective->loss_unit();
  }
  absl::Status Accumulate(const Objective& of, double* sum, const ModelTensors* gradient_views,
                          double gradient_scale = 1.0) {
    return of.Accumulate({.execution = context,
                          .stream = stream,
                          .gradient_scale = gradient_scale,
                          .gradients = gradient_views,
                          .loss_sum = TensorView::Of(sum, {1})});
  }
  bool Learns(const ParameterSpec& spec) const {
    return kind != Kind::kAlignment || spec.role == ParameterRole::kCandidate;
  }

  Kind kind;
  ScopedThreadCount threads{1};  // the work is too small to share
  TestContext context;
  TinyModel model, teacher;
  ParameterBuffer gradients;
  PackedStream stream;
  std::unique_ptr<Objective> objective;
};

class ObjectiveTest : public testing::TestWithParam<Kind> {};

TEST_P(ObjectiveTest, GradientsMatchFiniteDifferencesAndOthersStayZero) {
  Problem problem(GetParam(), DType::kFloat64);
  const ModelTensors views = problem.GradientViews();
  constexpr double kScale = 0.7;
  problem.Loss(&views, kScale);
  for (const ParameterSpec& spec : problem.model.weights.layout.specs()) {
    const TensorView gradient = problem.gradients.View(spec);
    EXPECT_EQ(Dot(gradient, gradient) > 0, problem.Learns(spec)) << spec.name;
    if (!problem.Learns(spec)) continue;
    EXPECT_TRUE(MatchesFiniteDifferences([&] { return kScale * problem.Loss(); },
                                         problem.model.weights.buffer.View(spec), gradient,
                                         {.tolerance = 2e-5, .samples = 4}))
        << spec.name;
  }
}

TEST_P(ObjectiveTest, GradientsAreAddedToWhatIsThere) {
  Problem problem(GetParam(), DType::kFloat64);
  const ModelTensors views = problem.GradientViews();
  problem.Loss(&views);
  const double norm = Dot(problem.gradients.Flat(), problem.gradients.Flat());
  ASSERT_GT(norm, 0.0);
  problem.Loss(&views);
  EXPECT_NEAR(Dot(problem.gradients.Flat(), problem.gradients.Flat()) / norm, 4.0, 1e-9);
}

TEST_P(ObjectiveTest, LossIsAddedToWhatIsThere) {
  Problem problem(GetParam(), DType::kFloat64);
  double sum = 0.0;
  ASSERT_TRUE(problem.Accumulate(*problem.objective, &sum, nullptr).ok());
  const double once = sum;
  ASSERT_GT(once, 0.0);
  ASSERT_TRUE(problem.Accumulate(*problem.objective, &sum, nullptr).ok());
  EXPECT_NEAR(sum / once, 2.0, 1e-12);
  const std::vector<PackedStream> twice = {problem.stream, problem.stream};
  const auto sums = SumLoss(problem.context, *problem.objective, twice);
  ASSERT_TRUE(sums.ok()) << sums.status();
  EXPECT_EQ(sums->loss, sum * problem.objective->loss_unit());
  EXPECT_EQ(sums->row_weights,
            GetParam() == Kind::kLanguageModel ? 2 * (kRealTokens - 4) : 2 * kRealTokens);
}

TEST_P(ObjectiveTest, LossIsTheSameWithAndWithoutGradients) {
  Problem problem(GetParam(), DType::kFloat32);
  const double alone = problem.Loss();
  const ModelTensors views = problem.GradientViews();
  EXPECT_EQ(problem.Loss(&views), alone);
}

TEST_P(ObjectiveTest, FrozenParametersGetNoGradientAndTheOthersTheSame) {
  Problem problem(GetParam(), DType::kFloat32);
  const ModelTensors all = problem.GradientViews();
  problem.Loss(&all);
  const auto is_trainable = [](const ParameterSpec& spec) { return spec.layer == 2; };
  const ParameterBuffer some = Zeros(problem.model, DType::kFloat32);
  const ModelTensors views = BindTrainable(problem.model.transformer.config(),
                                           problem.model.weights.layout, some, is_trainable);
  problem.Loss(&views);
  const ParameterBuffer zeros = Zeros(problem.model, DType::kFloat32);
  for (const ParameterSpec& spec : problem.model.weights.layout.specs()) {
    EXPECT_TRUE(BitwiseEqual(some.View(spec),
                             is_trainable(spec) ? problem.gradients.View(spec) : zeros.View(spec)))
        << spec.name;
  }
}

TEST_P(ObjectiveTest, EveryDocumentAndTheLastTokenCount) {
  Problem problem(GetParam(), DType::kFloat64);
  const double before = problem.Loss();
  // The first token of each document, and the last of the last. The next-token loss has no use for
  // the token after which nothing is predicted, as an input; as a target it counts.
  for (const int64_t row : {0, 14, 23, 43, 47}) {
    const PackedStream original = problem.stream;
    auto& token = problem.stream.tokens[static_cast<size_t>(row)];
    token = (token + 1) % 22;
    if (row > 0) problem.stream.targets[static_cast<size_t>(row - 1)] = token;
    EXPECT_GT(std::abs(problem.Loss() - before), 1e-6) << "row " << row;
    problem.stream = original;
  }
}

TEST_P(ObjectiveTest, PaddingDoesNotCount) {
  Problem problem(GetParam(), DType::kFloat64);
  const ModelTensors views = problem.GradientViews();
  const double padded = problem.Loss(&views);
  const std::vector<float> weights = problem.objective->RowWeights(problem.stream);
  ASSERT_EQ(weights.size(), static_cast<size_t>(problem.stream.size()));
  double sum = 0.0;
  for (size_t row = 0; row < weights.size(); ++row) {
    sum += static_cast<double>(weights[row]);
    if (row >= static_cast<size_t>(kRealTokens)) {
      EXPECT_EQ(weights[row], 0.0F) << row;
    }
  }
  // Distillation and alignment learn from every real token, the next-token loss from all but the
  // last of each document.
  EXPECT_EQ(sum, kRealTokens - (GetParam() == Kind::kLanguageModel ? 4 : 0));
  const TensorView of_padding_token = views.embedding.Rows(kPaddingToken, 1);
  EXPECT_EQ(Dot(of_padding_token, of_padding_token), 0.0);

  for (int64_t row = kRealTokens; row < problem.stream.size(); ++row)
    problem.stream.tokens[static_cast<size_t>(row)] = 3;
  EXPECT_EQ(problem.Loss(), padded);
  problem.stream.tokens.resize(kRealTokens);
  problem.stream.targets.resize(kRealTokens);
  problem.stream.loss_weights.resize(kRealTokens);
  problem.stream.segments.pop_back();
  EXPECT_NEAR(problem.Loss(), padded, 1e-12 * padded);
}

TEST_P(ObjectiveTest, ATokenOutsideTheVocabularyIsRefused) {
  Problem problem(GetParam(), DType::kFloat32);
  problem.stream.tokens[30] = 24;
  double sum = 0.0;
  const absl::Status status = problem.Accumulate(*problem.objective, &sum, nullptr);
  EXPECT_THAT(status.message(), testing::HasSubstr("id 24 is outside"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, ObjectiveTest,
                         testing::Values(Kind::kLanguageModel, Kind::kDistillation,
                                         Kind::kAlignment),
                         [](const auto& given) { return NameOf(given.param); });

TEST(DistillationTest, AModelThatIsItsTeacherHasNoLossAndNoGradient) {
  Problem problem(Kind::kDistillation, DType::kFloat64);
  const auto objective =
      DistillationObjective(problem.model.transformer, problem.model.transformer);
  const ModelTensors views = problem.GradientViews();
  double sum = 0.0;
  const absl::Status status = problem.Accumulate(*objective, &sum, &views);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_NEAR(sum, 0.0, 1e-12);
  const TestTensor zeros(DType::kFloat64, {problem.model.weights.layout.total_size()});
  EXPECT_LT(MaxAbsDifference(problem.gradients.Flat(), zeros.View()), 1e-12);
}

TEST(DistillationTest, AStudentThatComputesLayersAgainMayHaveADeeperTeacher) {
  Problem problem(Kind::kDistillation, DType::kFloat64);
  const TinyModel teacher(TinyDenseConfig(kLayers + 2), DType::kFloat64, 43);
  const ModelTensors views = problem.GradientViews();
  double expected = 0.0, again = 0.0;
  for (const bool recomputes : {false, true}) {
    const std::vector<Recomputation> choices(recomputes ? kLayers : 0, Recomputation::kFull);
    const auto objective =
        DistillationObjective(problem.model.transformer, teacher.transformer, choices);
    const absl::Status status =
        problem.Accumulate(*objective, recomputes ? &again : &expected, &views);
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(again, expected);
}

TEST(DistillationTest, IsNeverNegative) {
  Problem problem(Kind::kDistillation, DType::kFloat64);
  EXPECT_GT(problem.Loss(), 0.0);
}

// Distillation and alignment, from a model as a conversion leaves it.
class DescentTest : public testing::TestWithParam<Kind> {};

TEST_P(DescentTest, LossFallsToAFractionOverThirtySteps) {
  Problem problem(GetParam(), DType::kFloat32);
  const ModelTensors views = problem.GradientViews();
  auto optimizer = Optimizer::Create(problem.model.weights.layout, CpuSession());
  ASSERT_TRUE(optimizer.ok());
  optimizer->Configure({}, [&](const ParameterSpec& spec) {
    return ParameterPolicy{.is_trainable = problem.Learns(spec)};
  });
  const auto alone = SingleRankCommunicator();
  const auto parallel = ParallelContext::Create(*alone, {}, problem.context);
  ASSERT_TRUE(parallel.ok()) << parallel.status();
  const std::unique_ptr<Replay> micro_batch = CpuSession().NewReplay();
  const SequenceAt same = [&](int64_t) -> absl::StatusOr<PackedStream> { return problem.stream; };
  double first = 0.0, last = 0.0;
  for (int step = 0; step < 30; ++step) {
    const auto result = RunTrainStep({.execution = problem.context,
                                      .parallel = *parallel,
                                      .weights = problem.model.weights.buffer,
                                      .gradients = problem.gradients,
                                      .gradient_views = views,
                                      .optimizer = *optimizer,
                                      .micro_batch = *micro_batch},
                                     *problem.objective, same, step, {.sequences = 1}, 1e-2);
    ASSERT_TRUE(result.ok()) << result.status();
    if (step == 0) first = result->loss;
    last = result->loss;
  }
  EXPECT_LT(last, 0.5 * first);
}

INSTANTIATE_TEST_SUITE_P(Kinds, DescentTest, testing::Values(Kind::kDistillation, Kind::kAlignment),
                         [](const auto& given) { return NameOf(given.param); });

}  // namespace
}  // namespace salamander
