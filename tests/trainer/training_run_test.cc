#include "trainer/run/training_run.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"
#include "kernels/base/status_macros.h"
#include "tests/storage/temporary_directory.h"
#include "trainer/run/model_file.h"
#include "trainer/run/run_state.h"

namespace salamander {
namespace {

using testing::HasSubstr;

// A model whose checkpoint carries a byte tokenizer, and one step of training to go on with.
class TrainingRunTest : public testing::Test {
 protected:
  void SetUp() override {
    ModelConfig config;
    config.vocabulary = 300;
    config.width = 8;
    config.intermediate = 16;
    config.max_positions = 64;
    config.softmax.heads = 2;
    config.softmax.kv_heads = 1;
    config.softmax.head_dim = 4;
    config.layers.resize(1);
    auto model = ModelWeights::Create(config, DType::kFloat32);
    ASSERT_TRUE(model.ok()) << model.status();
    InitializeWeights(config, model->layout, 0, model->buffer);
    const absl::Status saved =
        SaveModel(directory_ / "model.ckpt", *model,
                  {{kTokenizerText, MakeByteTokenizer()->Serialized()}}, *world_);
    ASSERT_TRUE(saved.ok()) << saved;
  }

  absl::Status TrainOn(const Tokenizer& tokenizer) {
    auto writer = TokenFileWriter::Create(directory_ / "data.h5", tokenizer, false);
    RETURN_IF_ERROR(writer.status());
    RETURN_IF_ERROR((*writer)->AddDocument(std::vector<int32_t>(100, 7), {}));
    RETURN_IF_ERROR((*writer)->Finish());
    return Train(RecipeOf({StageOf("lm", 1)}));
  }

  Recipe RecipeOf(const std::vector<StageConfig>& stages) const {
    Recipe recipe;
    recipe.name = "test";
    recipe.run_directory = directory_ / "run";
    recipe.model.from = directory_ / "model.ckpt";
    recipe.data["text"] = {.path = directory_ / "data.h5"};
    recipe.evaluation.sequences = 0;
    recipe.checkpoint = {.every_steps = 1, .keep_last = 10};
    recipe.stages = stages;
    return recipe;
  }

  static StageConfig StageOf(const std::string& name, int64_t steps) {
    StageConfig stage;
    stage.name = name;
    stage.sequence_length = stage.batch_tokens = 32;
    stage.tokens = 32 * steps;
    stage.learning_rate.peak = 1e-3;
    stage.mixture = {{"text", 1.0}};
    return stage;
  }

  absl::Status Train(const Recipe& recipe) {
    ASSIGN_OR_RETURN(const auto session, DeviceSession::Open({}));
    return RunRecipe(recipe, *session, *world_).status();
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Communicator> world_ = SingleRankCommunicator();
};

TEST_F(TrainingRunTest, RefusesIdsOfAnotherTokenizerThanTheModels) {
  std::string text;
  for (int line = 0; line < 300; ++line) text += "some words of line " + std::to_string(line) + " ";
  const auto other = TrainSentencePieceTokenizer({text}, 290);
  ASSERT_TRUE(other.ok()) << other.status();
  const absl::Status status = TrainOn(**other);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("another tokenizer than the model's"));
}

TEST_F(TrainingRunTest, ModelKeepsItsTokenizerThroughTrainingOnReadyMadeIds) {
  const auto ids = MakeIdTokenizer(264, -1, -1);
  ASSERT_TRUE(ids.ok()) << ids.status();
  const absl::Status status = TrainOn(**ids);
  ASSERT_TRUE(status.ok()) << status;
  const auto trained = LoadModel(directory_ / "run");
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_EQ(trained->baggage.at(kTokenizerText), MakeByteTokenizer()->Serialized());
}

TEST_F(TrainingRunTest, WhatAnotherMachineLeftOfACheckpointGoes) {
  const std::string checkpoints = directory_ / "run/checkpoints";
  const std::string leftover = checkpoints + "/.step-00000001.partial-another_machine-1-1-0";
  std::filesystem::create_directories(leftover);
  const absl::Status status = TrainOn(**MakeIdTokenizer(264, -1, -1));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_FALSE(std::filesystem::exists(leftover));
  EXPECT_EQ(ListCheckpoints(checkpoints)->size(), 1U);
}

TEST_F(TrainingRunTest, AStageThatAnEditEndsAtTheStoredStepIsOver) {
  ASSERT_TRUE(TrainOn(**MakeIdTokenizer(264, -1, -1)).ok());
  std::filesystem::remove_all(directory_ / "run");
  ASSERT_TRUE(Train(RecipeOf({StageOf("lm", 2)})).ok());
  // As if it had been stopped after the first step.
  const std::string checkpoints = directory_ / "run/checkpoints/";
  std::filesystem::remove_all(checkpoints + CheckpointName(2));
  for (int time = 0; time < 2; ++time) {
    const absl::Status ended = Train(RecipeOf({StageOf("lm", 1)}));
    ASSERT_TRUE(ended.ok()) << ended;
    EXPECT_EQ(ListCheckpoints(checkpoints)->size(), 1U);
  }
  const absl::Status more = Train(RecipeOf({StageOf("lm", 1), StageOf("more", 2)}));
  ASSERT_TRUE(more.ok()) << more;
  const auto progress = LoadProgress(checkpoints + CheckpointName(3));
  ASSERT_TRUE(progress.ok()) << progress.status();
  EXPECT_EQ(progress->stage, 2);
  EXPECT_EQ(progress->tokens, 3 * 32);
}

}  // namespace
}  // namespace salamander
