// A run that is killed or stopped at any moment and started again ends bitwise where the run that
// was not interrupted ends: weights, moments, metrics.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_replace.h"

#include "model/checkpoint/checkpoint.h"
#include "tests/system/same_run.h"
#include "tests/system/tiny_road.h"

namespace salamander {
namespace {

namespace fs = std::filesystem;

// 24 steps on 64 tokens, then 12 on 256 with sparse attention in the kept layers and fresh moments.
constexpr char kRecipe[] = R"(name: resume
run_directory: RUN
seed: 7
model: {from: hybrid.ckpt}
data:
  text: {path: tokens.h5, held_out: 0.2, lanes: 2}
  recall: {kind: associative_recall, path: tokens.h5, pairs: 4, sample_length: 64}
optimizer: {weight_decay: 0.1}
stages:
  - name: short
    objective: lm
    sequence_length: 64
    tokens: 6K
    batch_tokens: 256
    micro_batch_tokens: 64
    peak_lr: 3e-3
    schedule: {shape: cosine, warmup_steps: 3, final_lr: 1e-4}
    mixture: {text: 3, recall: 1}
  - name: long
    objective: lm
    sequence_length: 256
    tokens: 6K
    batch_tokens: 512
    peak_lr: 1e-3
    mixture: {text: 1}
    sparse: on
    dense_length: 64
    optimizer_state: reset
evaluation: {sequences: 4, every_steps: 5, recall_lengths: [128]}
checkpoint: {every_steps: 3, keep_last: 2}
)";
constexpr int kSteps = 36;
constexpr char kLastCheckpoint[] = "/checkpoints/step-00000036";

int64_t LinesOf(const std::string& path) {
  const std::string text = ReadText(path);
  return std::count(text.begin(), text.end(), '\n');
}

int64_t PartialsIn(const std::string& directory) {
  int64_t count = 0;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (entry->path().filename().string().find(".partial-") != std::string::npos) ++count;
  }
  return count;
}

class ResumeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    road = std::make_unique<TinyRoad>();
    road->MakeHybrid();
    for (const int ranks : {1, 2}) road->Succeed(Train(Reference(ranks)), ranks);
  }
  static void TearDownTestSuite() { road.reset(); }

  // Writes the recipe of a run and gives the command that trains it.
  static std::vector<std::string> Train(const std::string& run) {
    WriteText(road->Path(run + ".yaml"), absl::StrReplaceAll(kRecipe, {{"RUN", run}}));
    return {"train", run + ".yaml"};
  }
  // The run that nothing interrupts.
  static std::string Reference(int ranks) { return "reference" + std::to_string(ranks); }

  // Until the run has logged so many lines more than before, or has ended.
  static void AwaitLines(Program& program, const std::string& run, int64_t lines) {
    const std::string path = road->Path(run + "/metrics.jsonl");
    while (program.IsRunning() && LinesOf(path) < lines)
      std::this_thread::sleep_for(std::chrono::microseconds(200));
  }

  static void ExpectAsReference(const std::string& run, int ranks) {
    const std::string actual = road->Path(run), expected = road->Path(Reference(ranks));
    ExpectSameTensors(actual + kLastCheckpoint, expected + kLastCheckpoint);
    EXPECT_EQ(MetricsOf(actual), MetricsOf(expected));
    EXPECT_EQ(PartialsIn(actual + "/checkpoints"), 0);
    EXPECT_EQ(PartialsIn(actual), 0);
  }

  // Kills the run again and again after a random number of further lines and a random pause, lets
  // it end, and compares.
  static void KillAndCompare(const std::string& run, int ranks, bool kills_launcher) {
    std::random_device device;
    const unsigned seed = device();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const std::string log = road->Path(run + "/metrics.jsonl");
    const auto command = Train(run);
    int interrupted = 0;
    for (int attempt = 0; attempt < (ranks == 1 ? 8 : 3); ++attempt) {
      Program program(road->MakeLaunch(command, ranks));
      const int64_t more = static_cast<int64_t>(random() % 12);
      if (more > 0) AwaitLines(program, run, LinesOf(log) + more);
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      if (program.IsRunning()) ++interrupted;
      if (kills_launcher) {
        program.Signal(SIGKILL);
      } else {
        program.SignalRank(SIGKILL);
      }
      const Outcome outcome = program.Wait();
      ASSERT_FALSE(outcome.timed_out) << outcome;
    }
    EXPECT_GT(interrupted, 0);
    road->Succeed(command, ranks);
    ExpectAsReference(run, ranks);
  }

  // Asks the run to stop in the middle, checks that it says so and saved, lets it end and compares.
  static void StopAndCompare(const std::string& run, int ranks, int signal) {
    const auto command = Train(run);
    Program program(road->MakeLaunch(command, ranks));
    AwaitLines(program, run, 8);
    program.Signal(signal);
    const Outcome outcome = program.Wait();
    EXPECT_EQ(outcome.exit_code, 0) << outcome;
    EXPECT_NE(outcome.errors.find("stopped as asked"), std::string::npos) << outcome;
    // Nothing that was logged is lost: the last step has a checkpoint.
    const auto checkpoints = ListCheckpoints(road->Path(run + "/checkpoints"));
    ASSERT_TRUE(checkpoints.ok()) << checkpoints.status();
    const auto last = nlohmann::json::parse(MetricsOf(road->Path(run)).back());
    EXPECT_EQ(fs::path(checkpoints->back()).filename(),
              CheckpointName(last.at("step").get<int64_t>()));
    EXPECT_LT(last.at("step").get<int64_t>(), kSteps);
    const auto metrics = MetricsOf(road->Path(run));

    const Outcome rest = road->Succeed(command, ranks);
    EXPECT_NE(rest.errors.find("going on from " + run + "/checkpoints/"), std::string::npos);
    const auto all = MetricsOf(road->Path(run));
    EXPECT_TRUE(std::equal(metrics.begin(), metrics.end(), all.begin()));
    ExpectAsReference(run, ranks);
  }

  static std::unique_ptr<TinyRoad> road;
};

std::unique_ptr<TinyRoad> ResumeTest::road;

TEST_F(ResumeTest, KilledAtRandomMomentsOneRankEndsBitwiseTheSame) {
  KillAndCompare("killed", 1, true);
}

TEST_F(ResumeTest, WithOneOfTwoRanksKilledTheRunEndsBitwiseTheSame) {
  KillAndCompare("killed_rank", 2, false);
}

TEST_F(ResumeTest, WithTheLauncherKilledTwoRanksEndBitwiseTheSame) {
  KillAndCompare("killed_launcher", 2, true);
}

TEST_F(ResumeTest, SigtermSavesExitsCleanlyAndGoesOn) {
  StopAndCompare("terminated", 1, SIGTERM);
}

TEST_F(ResumeTest, SigintSavesExitsCleanlyAndGoesOn) {
  StopAndCompare("interrupted", 1, SIGINT);
}

TEST_F(ResumeTest, SigtermStopsTwoRanksTogether) {
  StopAndCompare("terminated2", 2, SIGTERM);
}

TEST_F(ResumeTest, SigintStopsTwoRanksTogether) {
  StopAndCompare("interrupted2", 2, SIGINT);
}

TEST_F(ResumeTest, KilledWhileACheckpointIsWrittenNothingIsLostAndLeftoversGo) {
  const std::string run = "half_written";
  const auto command = Train(run);
  int caught = 0;
  for (int attempt = 0; attempt < 20 && caught < 3; ++attempt) {
    Program program(road->MakeLaunch(command));
    const std::string checkpoints = road->Path(run + "/checkpoints");
    // A leftover of the attempt before goes first, then the next one is this attempt's.
    AwaitLines(program, run, 1);
    while (program.IsRunning() && PartialsIn(checkpoints) == 0)
      ;
    program.Signal(SIGKILL);
    ASSERT_FALSE(program.Wait().timed_out);
    if (PartialsIn(checkpoints) > 0) ++caught;
  }
  EXPECT_GT(caught, 0);
  road->Succeed(command);
  ExpectAsReference(run, 1);
}

TEST_F(ResumeTest, TwoRanksTellEveryTenthStepWhichIsSlowest) {
  for (const int ranks : {1, 2}) {
    std::istringstream stream(ReadText(road->Path(Reference(ranks) + "/metrics.jsonl")));
    int told = 0;
    for (std::string line; std::getline(stream, line);) {
      const auto json = nlohmann::json::parse(line);
      if (!json.contains("slowest_1_rank")) continue;
      ++told;
      EXPECT_EQ(json.at("step").get<int64_t>() % 10, 0) << line;
      EXPECT_EQ(json.at("slowest_1_rank").get<int>() + json.at("slowest_2_rank").get<int>(), 1);
      EXPECT_GE(json.at("slowest_1_seconds"), json.at("median_rank_seconds")) << line;
      EXPECT_GE(json.at("median_rank_seconds"), json.at("slowest_2_seconds")) << line;
    }
    EXPECT_EQ(told, ranks == 1 ? 0 : kSteps / 10);
  }
}

TEST_F(ResumeTest, AFinishedRunSaysSoAndChangesNothing) {
  const std::string run = Reference(1);
  const auto before = Snapshot(road->Path(run));
  const Outcome outcome = road->Succeed(Train(run));
  EXPECT_NE(outcome.errors.find("done"), std::string::npos) << outcome;
  EXPECT_EQ(Snapshot(road->Path(run)), before);
}

}  // namespace
}  // namespace salamander
