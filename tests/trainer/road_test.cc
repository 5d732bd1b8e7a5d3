#include "trainer/commands/road.h"

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "data/storage/file_bytes.h"
#include "tests/storage/temporary_directory.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/road_plan.h"
#include "trainer/run/model_file.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr char kShape[] = R"(family: llama
width: 32
intermediate: 64
layers: 4
heads: 2
kv_heads: 1
head_dim: 16
max_positions: 1K
)";

constexpr char kBase[] = R"(name: base
run_directory: DIR/base
model: {shape: DIR/shape.yaml}
data: {text: {path: DIR/text.h5, held_out: 0.1}}
stages:
  - {name: lm, objective: lm, sequence_length: 128, tokens: 4K, batch_tokens: 1K, peak_lr: 1e-3, mixture: {text: 1}}
evaluation: {sequences: 1}
)";

constexpr char kRoad[] = R"(name: road
run_directory: DIR/road
model: {from: DIR/base}
teacher: DIR/base
data: {text: {path: DIR/text.h5, held_out: 0.1}}
stages:
  - {name: candidates, kind: convert}
  - {name: align, objective: align, train: candidates, sequence_length: 128, tokens: 4K, batch_tokens: 1K, peak_lr: 1e-3, mixture: {text: 1}}
  - {name: pick, kind: select, select: {keep_fraction: 0.5, recall_length: 64, recall_pairs: 4, recall_samples: 1, sequences: 1, sequence_length: 128}}
  - {name: hybrid, kind: convert, convert: {keep: selected}}
  - {name: distill, objective: distill, sequence_length: 128, tokens: 4K, batch_tokens: 1K, peak_lr: 1e-3, mixture: {text: 1}}
  - {name: extend, objective: lm, sequence_length: 256, tokens: 4K, batch_tokens: 1K, peak_lr: 1e-3, mixture: {text: 1}, sparse: on}
evaluation: {sequences: 1}
)";

int SoftmaxLayers(const ModelConfig& config) {
  int count = 0;
  for (const LayerConfig& layer : config.layers)
    count += layer.mixer == MixerKind::kSoftmax ? 1 : 0;
  return count;
}

class RoadTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(directory_ / "texts");
    for (int document = 0; document < 20; ++document) {
      std::ofstream text(directory_ / absl::StrCat("texts/", document, ".txt"));
      for (int line = 0; line < 30; ++line) text << "line " << line * document << " of a text\n";
    }
    Put("shape.yaml", kShape);
    Put("base.yaml", kBase);
    Put("road.yaml", kRoad);
    TokenizeCommand tokenize;
    tokenize.inputs = {directory_ / "texts"};
    tokenize.out = directory_ / "text.h5";
    ASSERT_TRUE(RunTokenize(tokenize, *world_).ok());
    ASSERT_TRUE(Train("base.yaml").ok());
  }

  void Put(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << absl::StrReplaceAll(text, {{"DIR", directory_.path()}});
  }

  absl::Status Train(const std::string& name, const std::vector<std::string>& overrides = {}) {
    TrainCommand train;
    train.recipe = directory_ / name;
    train.overrides = overrides;
    return RunTrain(train, *world_);
  }

  std::string Step(const std::string& name) const { return directory_ / ("road/steps/" + name); }

  std::vector<float> FinalWeights() const {
    const auto model = LoadModel(directory_ / "road");
    SALAMANDER_CHECK(model.ok()) << std::string(model.status().message());
    const TensorView flat = model->weights.buffer.Flat();
    std::vector<float> weights(static_cast<size_t>(flat.size()));
    std::memcpy(weights.data(), flat.data<float>(), weights.size() * sizeof(float));
    return weights;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Communicator> world_ = SingleRankCommunicator();
};

TEST_F(RoadTest, OneRecipeConvertsSelectsAndTrains) {
  const absl::Status status = Train("road.yaml");
  ASSERT_TRUE(status.ok()) << status;
  const auto candidates = LoadModel(Step("00-candidates"));
  ASSERT_TRUE(candidates.ok()) << candidates.status();
  EXPECT_TRUE(candidates->weights.config.layers[1].has_candidate);
  EXPECT_TRUE(FileSize(Step("02-pick/keep.yaml")).ok());
  const auto model = LoadModel(directory_ / "road");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->path, HasSubstr("steps/04-distill/checkpoints/"));
  EXPECT_EQ(SoftmaxLayers(model->weights.config), 2);
  EXPECT_EQ(model->weights.config.layers[0].mixer, MixerKind::kSoftmax);
}

TEST_F(RoadTest, GoesOnWhereItStoppedToTheSameBits) {
  ASSERT_TRUE(Train("road.yaml").ok());
  const std::vector<float> weights = FinalWeights();
  // As if killed in the last training step of the road, before and after the layers were selected.
  for (const auto& lost : {std::vector<std::string>{"04-distill"},
                           std::vector<std::string>{"02-pick", "03-hybrid", "04-distill"}}) {
    for (const std::string& step : lost) std::filesystem::remove_all(Step(step));
    const absl::Status status = Train("road.yaml");
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(FinalWeights(), weights);
  }
}

TEST_F(RoadTest, ThePlanKnowsModelsBeforeTheyAreThere) {
  const auto recipe = ReadRecipe(directory_ / "road.yaml", {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto planned = PlanTrainSteps(*recipe);
  ASSERT_TRUE(planned.ok()) << planned.status();
  ASSERT_EQ(planned->size(), 2u);
  ASSERT_TRUE(Train("road.yaml").ok());
  const auto candidates = LoadModelConfig(Step("00-candidates"));
  const auto hybrid = LoadModelConfig(Step("03-hybrid"));
  ASSERT_TRUE(candidates.ok() && hybrid.ok());
  EXPECT_EQ((*planned)[0].models.base, *candidates);
  // Which layers stay was not known, only how many.
  const ModelConfig& foreseen = (*planned)[1].models.base;
  EXPECT_EQ(SoftmaxLayers(foreseen), SoftmaxLayers(*hybrid));
  EXPECT_EQ(ParameterLayout(foreseen).total_size(), ParameterLayout(*hybrid).total_size());
  ASSERT_TRUE((*planned)[1].models.teacher.has_value());

  const auto walked = PlanTrainSteps(*recipe);
  ASSERT_TRUE(walked.ok()) << walked.status();
  EXPECT_EQ((*walked)[1].models.base, *hybrid);
}

TEST_F(RoadTest, ThePlanKnowsATeacherThatAnEarlierStepWillLeave) {
  const auto plan = [&](const std::string& teacher) -> absl::StatusOr<std::vector<PlannedStep>> {
    const auto recipe =
        ReadRecipe(directory_ / "road.yaml", {absl::StrCat("teacher=", directory_ / teacher)});
    if (!recipe.ok()) return recipe.status();
    return PlanTrainSteps(*recipe);
  };
  const auto planned = plan("road/./steps/00-candidates/");
  ASSERT_TRUE(planned.ok()) << planned.status();
  ASSERT_TRUE((*planned)[0].models.teacher.has_value());
  EXPECT_EQ(*(*planned)[0].models.teacher, (*planned)[0].models.base);
  EXPECT_FALSE(plan("road/steps/00-candidate").ok());
}

TEST_F(RoadTest, ThePlanAsksForNoModelThatIsBehindIt) {
  ASSERT_TRUE(Train("road.yaml").ok());
  std::filesystem::remove_all(directory_ / "base");
  const auto recipe =
      ReadRecipe(directory_ / "road.yaml",
                 {absl::StrCat("teacher=", directory_ / "road/steps/00-candidates")});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto planned = PlanTrainSteps(*recipe);
  EXPECT_TRUE(planned.ok()) << planned.status();
}

TEST_F(RoadTest, AConversionThatDoesNotFitIsToldByThePlan) {
  TrainCommand train;
  train.recipe = directory_ / "road.yaml";
  train.overrides = {"stages[3].convert.keep=7"};
  train.plan = true;
  const absl::Status status = RunTrain(train, *world_);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("03-hybrid"));
}

TEST_F(RoadTest, EditsOfStagesThatAreDoneAreToldAndIgnored) {
  ASSERT_TRUE(Train("road.yaml").ok());
  const std::vector<float> weights = FinalWeights();
  testing::internal::CaptureStderr();
  const absl::Status status = Train("road.yaml", {"stages[3].convert.gate=open"});
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(log, HasSubstr("stages[3].convert.gate"));
  EXPECT_THAT(log, HasSubstr("ignored"));
  EXPECT_EQ(FinalWeights(), weights);
}

TEST_F(RoadTest, AFailedStepNamesItsPlace) {
  const absl::Status status = Train("road.yaml", {"stages[2].select.keep_count=9"});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("stages[2].select"));
  EXPECT_FALSE(FileSize(Step("02-pick/keep.yaml")).ok());
}

}  // namespace
}  // namespace salamander
