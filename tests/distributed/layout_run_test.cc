// On four ranks: runs whose stages lay the ranks out in different ways, or that go on in another
// layout than they stopped in, learn what one rank learns, but for fp32 rounding.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"
#include "tests/distributed/sharded_state.h"
#include "tests/distributed/world.h"
#include "tests/model/tiny_model.h"
#include "tests/trainer/planning_device.h"
#include "trainer/run/memory_plan.h"
#include "trainer/run/model_file.h"
#include "trainer/run/training_run.h"

namespace salamander {
namespace {

constexpr int64_t kStepsOfStage = 6;

class LayoutRunTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(World().size(), 4);
    const TinyModel model(SplittableConfig(), DType::kFloat32, 5);
    const absl::Status saved = SaveModel(directory_ / "model.ckpt", model.weights, {}, World());
    ASSERT_TRUE(saved.ok()) << saved;
    if (World().rank() == 0) WriteTokens();
    ASSERT_TRUE(World().Barrier().ok());
  }

  void WriteTokens() {
    const auto tokenizer = MakeIdTokenizer(48, -1, -1);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    auto writer = TokenFileWriter::Create(directory_ / "data.h5", **tokenizer, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int32_t document = 0; document < 200; ++document) {
      std::vector<int32_t> tokens;
      for (int32_t index = 0; index < 20 + document % 90; ++index)
        tokens.push_back((document * 7 + index * 5) % 48);
      ASSERT_TRUE((*writer)->AddDocument(tokens, {}).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
  }

  // Two stages, each with its own context and tensor ranks.
  Recipe RecipeOf(const std::string& run, const MeshShape& first, const MeshShape& second) const {
    Recipe recipe;
    recipe.name = "layouts";
    recipe.run_directory = directory_ / run;
    recipe.model.from = directory_ / "model.ckpt";
    recipe.data["text"] = {.path = directory_ / "data.h5", .lanes = 2, .held_out = 0.1};
    recipe.evaluation.every_steps = 3;
    recipe.evaluation.sequences = 5;
    recipe.checkpoint = {.every_steps = 2, .keep_last = 100};
    recipe.log_every_steps = 1000;
    for (const MeshShape& shape : {first, second}) {
      StageConfig stage;
      stage.name = recipe.stages.empty() ? "first" : "second";
      stage.sequence_length = 64;
      stage.batch_tokens = 8 * 64;
      stage.tokens = kStepsOfStage * stage.batch_tokens;
      stage.learning_rate.peak = 1e-3;
      stage.mixture = {{"text", 1.0}};
      stage.context_parallel = shape.context;
      stage.tensor_parallel = shape.tensor;
      recipe.stages.push_back(stage);
    }
    return recipe;
  }

  // Losses of steps and of held-out sequences, in order.
  static std::vector<double> LossesOf(const Recipe& recipe) {
    std::vector<double> losses;
    std::ifstream lines(recipe.run_directory + "/metrics.jsonl");
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      for (const char* const key : {"loss", "held_out_loss"}) {
        if (json.contains(key)) losses.push_back(json.at(key).get<double>());
      }
    }
    return losses;
  }

  // Of rank 0, in the last stage.
  static int64_t ArenaPeakOf(const Recipe& recipe) {
    int64_t peak = 0;
    std::ifstream lines(recipe.run_directory + "/metrics.jsonl");
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.at("kind") == "memory") peak = json.at("arena_peak_bytes").get<int64_t>();
    }
    return peak;
  }

  static void Run(const Recipe& recipe, Communicator& world) {
    const auto end = RunRecipe(recipe, CpuSession(), world);
    ASSERT_TRUE(end.ok()) << end.status();
  }

  std::vector<double> LossesOfOneRank() const {
    if (World().rank() != 0) return {};
    const Recipe recipe = RecipeOf("alone", {}, {});
    Run(recipe, *SingleRankCommunicator());
    return LossesOf(recipe);
  }

  // Adam divides a gradient by its own size, so that rounding grows from step to step.
  static void ExpectNear(const std::vector<double>& losses, const std::vector<double>& expected) {
    ASSERT_EQ(losses.size(), expected.size());
    ASSERT_GE(losses.size(), static_cast<size_t>(2 * kStepsOfStage));
    for (size_t index = 0; index < losses.size(); ++index)
      EXPECT_NEAR(losses[index], expected[index], 1e-4 * expected[index]) << index;
    EXPECT_NEAR(losses[0], expected[0], 1e-6 * expected[0]);
  }

  const SharedDirectory directory_;
};

TEST_F(LayoutRunTest, AStageReshardsTheRun) {
  const std::vector<double> expected = LossesOfOneRank();
  int run = 0;
  for (const auto& [first, second] :
       {std::pair(MeshShape{.tensor = 2}, MeshShape{.tensor = 4}),
        std::pair(MeshShape{.context = 4}, MeshShape{.context = 2}),
        std::pair(MeshShape{.context = 2, .tensor = 2}, MeshShape{})}) {
    const Recipe recipe = RecipeOf(absl::StrCat("stages", run++), first, second);
    Run(recipe, World());
    if (World().rank() == 0) ExpectNear(LossesOf(recipe), expected);
  }
}

TEST_F(LayoutRunTest, ARunGoesOnInAnotherLayout) {
  const std::vector<double> expected = LossesOfOneRank();
  Run(RecipeOf("resumed", {.tensor = 4}, {.tensor = 2}), World());
  // As if it had been stopped in the middle of the second stage, and its layout edited.
  if (World().rank() == 0) {
    for (const int64_t step : {10, 12}) {
      std::filesystem::remove_all(directory_ / "resumed/checkpoints/" + CheckpointName(step));
    }
  }
  ASSERT_TRUE(World().Barrier().ok());
  const Recipe edited = RecipeOf("resumed", {.tensor = 4}, {.context = 4});
  Run(edited, World());
  if (World().rank() == 0) ExpectNear(LossesOf(edited), expected);
}

// But for where the documents of the data end.
TEST_F(LayoutRunTest, ThePlanIsWhatARankTakes) {
  for (const MeshShape& shape : {MeshShape{}, MeshShape{.tensor = 2}, MeshShape{.tensor = 4},
                                 MeshShape{.context = 4}, MeshShape{.context = 2, .tensor = 2}}) {
    for (const int64_t evaluated : {0, 5}) {
      const std::string name = absl::StrCat("planned", shape.context, shape.tensor, evaluated);
      Recipe recipe = RecipeOf(name, shape, shape);
      recipe.evaluation.sequences = evaluated;
      recipe.evaluation.sequence_length = 512;  // for the evaluation to take the most
      Run(recipe, World());
      if (World().rank() != 0) continue;
      PlanningDevice device;
      const auto plan =
          PlanMemory(recipe, {.base = SplittableConfig(), .teacher = std::nullopt}, 0, 4, device);
      ASSERT_TRUE(plan.ok()) << plan.status();
      const auto planned = static_cast<double>(plan->Of("second").arena());
      const auto peak = static_cast<double>(ArenaPeakOf(recipe));
      EXPECT_NEAR(peak, planned, 0.05 * planned) << name;
    }
  }
}

// Of a model whose run goes on meanwhile, ranks see different newest checkpoints.
TEST_F(LayoutRunTest, EveryRankBeginsWithTheModelThatTheFirstRankSaw) {
  const Recipe recipe = RecipeOf("begun", {}, {});
  Run(recipe, World());
  Recipe seen = RecipeOf("seen", {}, {});
  if (World().rank() > 0) seen.model.from = recipe.run_directory;
  Run(seen, World());
  if (World().rank() == 0) {
    EXPECT_EQ(LossesOf(seen), LossesOf(recipe));
  }
}

}  // namespace
}  // namespace salamander
