// On several ranks that take the GPUs in turn: what a run's passes take of a GPU is what was
// planned, in every layout.
#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"
#include "tests/distributed/world.h"
#include "tests/gpu/gpu_context.h"
#include "tests/gpu/model_on_gpu.h"
#include "tests/support/random_tensor.h"
#include "trainer/run/model_file.h"
#include "trainer/run/training_run.h"
#include "trainer/run/workspace.h"

namespace salamander {
namespace {

constexpr int32_t kVocabulary = 100;

class MemoryPlanGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    auto session = OpenDevice(DeviceChoice::kCuda, World());
    ASSERT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    const ModelWeights exact = ExactWeights(SmallHybridConfig(4, {0, 2}, 64), 5);
    auto weights = ModelWeights::Create(exact.config, DType::kFloat32);
    ASSERT_TRUE(weights.ok());
    ASSERT_TRUE(CopyParameters({}, exact.buffer, weights->buffer).ok());
    const absl::Status saved = SaveModel(directory_ / "model.ckpt", *weights, {}, World());
    ASSERT_TRUE(saved.ok()) << saved;
    if (World().rank() == 0) WriteTokens();
    ASSERT_TRUE(World().Barrier().ok());
  }

  void WriteTokens() {
    const auto tokenizer = MakeIdTokenizer(kVocabulary, -1, -1);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    auto writer = TokenFileWriter::Create(directory_ / "data.h5", **tokenizer, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    SplitMix random(3);
    for (int document = 0; document < 60; ++document) {
      std::vector<int32_t> tokens(static_cast<size_t>(random.Integer(20, 9000)));
      for (int32_t& token : tokens)
        token = static_cast<int32_t>(random.Integer(0, kVocabulary - 1));
      ASSERT_TRUE((*writer)->AddDocument(tokens, {}).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
  }

  Recipe RecipeOf(int context, int tensor, bool sparse) const {
    Recipe recipe;
    recipe.name = "plan";
    recipe.run_directory = directory_ / absl::StrCat("run", context, tensor, sparse ? "s" : "d");
    recipe.model.from = directory_ / "model.ckpt";
    recipe.data["text"] = {.path = directory_ / "data.h5", .lanes = 4, .held_out = 0.2};
    recipe.evaluation.sequences = 2;
    recipe.log_every_steps = 1000;
    StageConfig stage;
    stage.name = "lm";
    stage.sequence_length = 8192;
    stage.batch_tokens = World().size() * stage.sequence_length;
    stage.tokens = 3 * stage.batch_tokens;
    stage.learning_rate.peak = 1e-3;
    stage.mixture = {{"text", 1.0}};
    stage.context_parallel = context;
    stage.tensor_parallel = tensor;
    stage.sparse = sparse;
    stage.dense_rule = DenseRule::kPerQuery;
    stage.dense_length = 1000;
    recipe.stages = {stage};
    return recipe;
  }

  // Rank 0's.
  static nlohmann::json MemoryOf(const Recipe& recipe) {
    nlohmann::json memory;
    std::ifstream lines(recipe.run_directory + "/metrics.jsonl");
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.at("kind") == "memory") memory = json;
    }
    return memory;
  }

  const SharedDirectory directory_;
  std::unique_ptr<DeviceSession> session_;
};

TEST_F(MemoryPlanGpuTest, ThePlanIsWhatARankTakes) {
  const int ranks = World().size();
  std::vector<std::pair<int, int>> layouts = {{1, 1}, {1, ranks}, {ranks, 1}};
  if (ranks == 4) layouts.emplace_back(2, 2);
  for (const auto& [context, tensor] : layouts) {
    for (const bool sparse : {false, true}) {
      const Recipe recipe = RecipeOf(context, tensor, sparse);
      const auto end = RunRecipe(recipe, *session_, World());
      ASSERT_TRUE(end.ok()) << end.status();
      ASSERT_TRUE(World().Barrier().ok());  // all have given their memory back
      if (World().rank() != 0) continue;
      const nlohmann::json memory = MemoryOf(recipe);
      const auto peak = memory.at("arena_peak_bytes").get<double>();
      const auto planned = memory.at("arena_planned_bytes").get<double>();
      std::cout << "context " << context << ", tensor " << tensor << (sparse ? ", sparse" : "")
                << ": planned " << planned << ", peak " << peak << "\n";
      // Rank 0 has the first slice, and the plan is of the one that takes the most.
      EXPECT_LE(peak, 1.05 * planned);
      EXPECT_GE(peak, (context == 1 ? 0.95 : 0.6) * planned);
    }
  }
}

}  // namespace
}  // namespace salamander
