// Training runs on the GPU beside the same runs on the CPU: the loss curve, and runs that stop and
// go on there or change the device.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"
#include "kernels/memory.h"
#include "model/checkpoint/checkpoint.h"
#include "model/parallel/communicator.h"
#include "tests/gpu/model_on_gpu.h"
#include "tests/storage/temporary_directory.h"
#include "trainer/commands/road.h"
#include "trainer/run/model_file.h"
#include "trainer/run/run_state.h"
#include "trainer/run/training_run.h"

namespace salamander {
namespace {

constexpr Device kCpu{};
constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int64_t kVocabulary = 100;
constexpr int64_t kSequenceLength = 128;
constexpr int64_t kBatchTokens = 4 * kSequenceLength;

// Text of a chain in which five tokens may follow each: something that two hundred steps learn.
std::vector<int32_t> ChainDocument(int64_t length, uint64_t seed) {
  SplitMix random(seed);
  std::vector<int32_t> tokens = {static_cast<int32_t>(random.Integer(0, kVocabulary - 1))};
  while (static_cast<int64_t>(tokens.size()) < length) {
    const int64_t choice = random.Integer(0, 4);
    tokens.push_back(static_cast<int32_t>((tokens.back() * 7 + 13 * choice + 3) % kVocabulary));
  }
  return tokens;
}

class TrainingGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    const auto tokenizer = MakeIdTokenizer(kVocabulary, -1, -1);
    ASSERT_TRUE(tokenizer.ok());
    auto writer = TokenFileWriter::Create(directory_ / "data.h5", **tokenizer, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    SplitMix random(3);
    for (uint64_t document = 0; document < 100; ++document) {
      const auto tokens = ChainDocument(random.Integer(20, 500), document);
      ASSERT_TRUE((*writer)->AddDocument(tokens, {}).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
    SaveStart("start", weights_);
  }

  // A model as a checkpoint that a recipe begins with.
  void SaveStart(const std::string& name, const ModelWeights& weights) {
    auto saved = ModelWeights::Create(weights.config, DType::kFloat32);
    ASSERT_TRUE(saved.ok());
    ASSERT_TRUE(CopyParameters({}, weights.buffer, saved->buffer).ok());
    const absl::Status status = SaveModel(directory_ / (name + ".ckpt"), *saved, {}, *alone_);
    ASSERT_TRUE(status.ok()) << status;
  }

  // A hybrid with sparse and Lightning layers, from the checkpoint of that name.
  Recipe RecipeOf(const std::string& run, const std::string& start, int64_t steps) const {
    Recipe recipe;
    recipe.name = "test";
    recipe.run_directory = directory_ / run;
    recipe.model.from = directory_ / (start + ".ckpt");
    recipe.data["text"] = {.path = directory_ / "data.h5", .lanes = 4};
    recipe.evaluation.sequences = 0;
    recipe.optimizer.weight_decay = 0.1;
    recipe.checkpoint = {.every_steps = 40, .keep_last = 10};
    recipe.log_every_steps = 1000;
    StageConfig stage;
    stage.name = "lm";
    stage.sequence_length = kSequenceLength;
    stage.batch_tokens = kBatchTokens;
    stage.micro_batch_tokens = kBatchTokens / 2;
    stage.tokens = steps * kBatchTokens;
    stage.learning_rate.peak = 2e-3;
    stage.learning_rate.warmup_steps = 10;
    stage.mixture = {{"text", 1.0}};
    stage.sparse = true;
    stage.dense_rule = DenseRule::kPerQuery;
    stage.dense_length = 48;
    recipe.stages = {stage};
    return recipe;
  }

  // Runs or goes on to the recipe's end; the losses of all steps from the first.
  std::vector<double> Train(const Recipe& recipe, const Device& device) {
    auto session = DeviceSession::Open(device);
    SALAMANDER_CHECK(session.ok()) << session.status().ToString();
    const auto end = RunRecipe(recipe, **session, *alone_);
    SALAMANDER_CHECK(end.ok()) << end.status().ToString();
    std::vector<double> losses;
    std::ifstream lines(recipe.run_directory + "/metrics.jsonl");
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.at("kind") == "step") losses.push_back(json.at("loss").get<double>());
    }
    return losses;
  }

  static std::string CheckpointOf(const Recipe& recipe, int64_t step) {
    return absl::StrCat(recipe.run_directory, "/checkpoints/", CheckpointName(step));
  }
  // As if the run had been stopped after `step`.
  static void ForgetAfter(const Recipe& recipe, int64_t step) {
    const auto checkpoints = ListCheckpoints(recipe.run_directory + "/checkpoints");
    SALAMANDER_CHECK(checkpoints.ok());
    for (const std::string& path : *checkpoints)
      if (path > CheckpointOf(recipe, step)) std::filesystem::remove_all(path);
  }

  // Weights and moments of one checkpoint have the bits of the other's.
  static void ExpectSameTensors(const std::string& path, const std::string& expected_path) {
    const auto actual = Checkpoint::Open(path), expected = Checkpoint::Open(expected_path);
    ASSERT_TRUE(actual.ok() && expected.ok()) << actual.status() << expected.status();
    ASSERT_EQ(actual->tensors().size(), expected->tensors().size());
    for (const auto& [name, tensor] : expected->tensors()) {
      const auto read = [&, &key = name, &shape = tensor.shape](const Checkpoint& checkpoint) {
        TestTensor values = shape.size() == 1 ? TestTensor(DType::kFloat32, {shape[0]})
                                              : TestTensor(DType::kFloat32, {shape[0], shape[1]});
        const absl::Status status = checkpoint.Read(key, values.View());
        EXPECT_TRUE(status.ok()) << status;
        return values;
      };
      EXPECT_TRUE(BitwiseEqual(read(*actual).View(), read(*expected).View())) << name;
    }
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Communicator> alone_ = SingleRankCommunicator();
  ModelWeights weights_ = ExactWeights(SmallHybridConfig(3, {0, 2}, 32), 51);
};

constexpr size_t kWindow = 20;  // steps whose losses are averaged
std::vector<double> Windows(const std::vector<double>& losses) {
  std::vector<double> means(losses.size() / kWindow, 0.0);
  for (size_t step = 0; step < means.size() * kWindow; ++step)
    means[step / kWindow] += losses[step] / kWindow;
  return means;
}

double RootMeanSquareDifference(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t index = 0; index < a.size(); ++index) sum += std::pow(a[index] - b[index], 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

// The last "memory" line of a run's metrics.
nlohmann::json MemoryOf(const Recipe& recipe) {
  nlohmann::json memory;
  std::ifstream lines(recipe.run_directory + "/metrics.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.at("kind") == "memory") memory = json;
  }
  return memory;
}

TEST_F(TrainingGpuTest, TheMemoryPlanIsWithinFivePercentOfTheMeasuredPeak) {
  for (const Recomputation recomputation :
       {Recomputation::kNone, Recomputation::kAttention, Recomputation::kFull}) {
    Recipe recipe = RecipeOf(absl::StrCat("run", static_cast<int>(recomputation)), "start", 5);
    recipe.stages[0].recomputation = recomputation;
    recipe.evaluation.sequences = 2;
    recipe.data["text"].held_out = 0.1;
    Train(recipe, kGpu);
    const nlohmann::json memory = MemoryOf(recipe);
    const auto peak = memory.at("arena_peak_bytes").get<double>();
    const auto planned = memory.at("arena_planned_bytes").get<double>();
    std::cout << "planned " << planned << ", peak " << peak << "\n";
    EXPECT_NEAR(peak, planned, 0.05 * planned);
  }
}

TEST_F(TrainingGpuTest, ARunThatDoesNotFitIsRefusedBeforeItTakesMemory) {
  Recipe recipe = RecipeOf("run", "start", 1);
  StageConfig& stage = recipe.stages[0];
  stage.sequence_length = int64_t{1} << 24;
  stage.batch_tokens = stage.micro_batch_tokens = stage.tokens = stage.sequence_length;
  auto session = DeviceSession::Open(kGpu);
  ASSERT_TRUE(session.ok()) << session.status();
  const auto free_before = (*session)->FreeBytes();
  const auto end = RunRecipe(recipe, **session, *alone_);
  EXPECT_EQ(end.status().code(), absl::StatusCode::kResourceExhausted) << end.status();
  for (const char* part : {"stage lm needs", "activations", "micro_batch_tokens", "recomputation"})
    EXPECT_THAT(std::string(end.status().message()), testing::HasSubstr(part));
  EXPECT_FALSE(std::filesystem::exists(recipe.run_directory));
  // Kernels that planning loaded stay.
  EXPECT_LT(*free_before - *(*session)->FreeBytes(), int64_t{64} << 20);
}

TEST_F(TrainingGpuTest, ARoadWithAStepThatDoesNotFitIsRefusedBeforeItsFirst) {
  Recipe recipe = RecipeOf("road", "start", 1);
  StageConfig longer = recipe.stages[0];
  longer.name = "longer";
  longer.sequence_length = int64_t{1} << 24;
  longer.batch_tokens = longer.micro_batch_tokens = longer.tokens = longer.sequence_length;
  StageConfig pick;
  pick.name = "pick";
  pick.kind = StageKind::kSelect;
  recipe.stages.push_back(pick);
  recipe.stages.push_back(longer);
  auto session = DeviceSession::Open(kGpu);
  ASSERT_TRUE(session.ok()) << session.status();
  const absl::Status status = WalkRoad(recipe, **session, *alone_);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  for (const char* part : {"steps/02-longer", "stage longer needs"})
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
  EXPECT_FALSE(std::filesystem::exists(recipe.run_directory));
}

// The GPU's losses are off by two things. By each step's own rounding, which the first loss of runs
// that start from weights a rounding away shows, and which is another one in each step of a window.
// And by what rounding makes of the weights, which the rest of those runs shows.
TEST_F(TrainingGpuTest, LossFollowsTheCpusWithinTheSpreadOfRunsThatStartARoundingAway) {
  constexpr int64_t kSteps = 200;
  constexpr int kOthers = 3;
  const std::vector<double> cpu = Train(RecipeOf("cpu", "start", kSteps), kCpu);
  const std::vector<double> gpu = Train(RecipeOf("gpu", "start", kSteps), kGpu);
  ASSERT_EQ(cpu.size(), static_cast<size_t>(kSteps));
  ASSERT_EQ(gpu.size(), cpu.size());
  double first_spread = 0.0, spread = 0.0;
  for (int other = 0; other < kOthers; ++other) {
    const std::string name = absl::StrCat("other", other);
    SaveStart(name, Perturbed(weights_, 60 + static_cast<uint64_t>(other)));
    const std::vector<double> losses = Train(RecipeOf(name, name, kSteps), kCpu);
    first_spread = std::max(first_spread, std::abs(losses[0] - cpu[0]));
    spread = std::max(spread, RootMeanSquareDifference(Windows(losses), Windows(cpu)));
  }
  spread += first_spread / std::sqrt(kWindow);
  const double first_error = std::abs(gpu[0] - cpu[0]);
  const double error = RootMeanSquareDifference(Windows(gpu), Windows(cpu));
  std::cout << "first loss " << cpu[0] << " off by " << first_error << " = "
            << first_error / first_spread << " spreads; curve off by " << error << " = "
            << error / spread << " spreads of " << spread << "; last windows "
            << Windows(cpu).back() << " on the CPU, " << Windows(gpu).back() << " on the GPU\n";
  EXPECT_LT(Windows(cpu).back(), 0.75 * Windows(cpu).front()) << "nothing is learnt";
  EXPECT_LE(first_error, 6 * first_spread);
  EXPECT_LE(error, 6 * spread);
}

TEST_F(TrainingGpuTest, AStoppedRunGoesOnBitForBit) {
  const Recipe recipe = RecipeOf("run", "start", 100);
  const std::vector<double> losses = Train(recipe, kGpu);
  const std::string whole = directory_ / "whole.ckpt";
  std::filesystem::rename(CheckpointOf(recipe, 100), whole);
  ForgetAfter(recipe, 40);
  EXPECT_EQ(Train(recipe, kGpu), losses);
  ExpectSameTensors(CheckpointOf(recipe, 100), whole);

  const Recipe again = RecipeOf("again", "start", 100);
  EXPECT_EQ(Train(again, kGpu), losses);
  ExpectSameTensors(CheckpointOf(again, 100), whole);
}

TEST_F(TrainingGpuTest, ACheckpointPassesThroughTheGpuUnchanged) {
  const Recipe recipe = RecipeOf("run", "start", 45);
  Train(recipe, kCpu);
  const auto data = RunData::Open(recipe);
  ASSERT_TRUE(data.ok());
  const auto session = DeviceSession::Open(kGpu);
  ASSERT_TRUE(session.ok());
  const Workspace workspace(**session);
  const auto parallel = ParallelContext::Create(*alone_, {}, workspace.execution());
  ASSERT_TRUE(parallel.ok()) << parallel.status();
  const auto state = RunState::Blank(recipe, *data, workspace, *parallel);
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_TRUE((*state)->Restore(CheckpointOf(recipe, 40), recipe).ok());
  const absl::Status saved = (*state)->Save(directory_ / "through.ckpt", recipe);
  ASSERT_TRUE(saved.ok()) << saved;
  ExpectSameTensors(directory_ / "through.ckpt", CheckpointOf(recipe, 40));

  for (const ShardLayout::Piece& piece : (*state)->optimizer->shard().pieces()) {
    TestTensor exact(DType::kFloat32, {piece.count}), rounded(DType::kBFloat16, {piece.count});
    const TensorView masters = (*state)->optimizer->Masters((*state)->weights(), piece);
    const TensorView weights = (*state)->weights().Flat().Rows(piece.flat_begin, piece.count);
    ASSERT_TRUE(CopyToHost(workspace.execution(), masters, exact.View().raw()).ok());
    ASSERT_TRUE(CopyToHost(workspace.execution(), weights, rounded.View().raw()).ok());
    EXPECT_TRUE(BitwiseEqual(rounded.View(), exact.As(DType::kBFloat16).View()));
  }
}

// From the GPU to the CPU at step 40, back at step 80. At each change the new device's first loss
// is the old one's up to rounding, which the run's very first loss shows.
TEST_F(TrainingGpuTest, ARunChangesTheDeviceAndBack) {
  const Recipe recipe = RecipeOf("run", "start", 120);
  const std::vector<double> gpu = Train(recipe, kGpu);
  ForgetAfter(recipe, 40);
  const std::vector<double> then_cpu = Train(recipe, kCpu);
  ASSERT_EQ(then_cpu.size(), 120U);
  EXPECT_TRUE(std::equal(gpu.begin(), gpu.begin() + 40, then_cpu.begin()));
  EXPECT_NE(gpu[40], then_cpu[40]);
  ForgetAfter(recipe, 80);
  const std::vector<double> then_gpu = Train(recipe, kGpu);
  EXPECT_TRUE(std::equal(then_cpu.begin(), then_cpu.begin() + 80, then_gpu.begin()));
  EXPECT_NE(then_cpu[80], then_gpu[80]);

  double spread = 0.0;
  const std::vector<double> cpu = Train(RecipeOf("cpu", "start", 1), kCpu);
  for (const uint64_t seed : {70U, 71U, 72U}) {
    const std::string name = absl::StrCat("other", seed);
    SaveStart(name, Perturbed(weights_, seed));
    spread = std::max(spread, std::abs(Train(RecipeOf(name, name, 1), kCpu)[0] - cpu[0]));
  }
  std::cout << "first losses on the CPU off by " << std::abs(then_cpu[40] - gpu[40]) / spread
            << ", back on the GPU " << std::abs(then_gpu[80] - then_cpu[80]) / spread
            << " spreads of " << spread << "\n";
  EXPECT_LE(std::abs(then_cpu[40] - gpu[40]), 6 * spread);
  EXPECT_LE(std::abs(then_gpu[80] - then_cpu[80]), 6 * spread);
}

}  // namespace
}  // namespace salamander
