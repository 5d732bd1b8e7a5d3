// A command whose file only one rank cannot read fails on every rank, and leaves no rank behind in
// a collective. Which checkpoint of a run is meant, the first rank says.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"
#include "tests/distributed/world.h"
#include "tests/model/tiny_model.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/conversion_steps.h"
#include "trainer/run/model_file.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr int64_t kVocabulary = 64;  // enough for a recall task

class LoneFailureTest : public testing::Test {
 protected:
  void SetUp() override {
    ModelConfig config = TinyDenseConfig(2);
    config.vocabulary = kVocabulary;
    const TinyModel model(config, DType::kFloat32, 1);
    const absl::Status saved = SaveModel(directory_ / "model.ckpt", model.weights, {}, World());
    ASSERT_TRUE(saved.ok()) << saved;
    if (World().rank() == 0) WriteTokens();
    ASSERT_TRUE(World().Barrier().ok());
  }

  void WriteTokens() {
    const auto tokenizer = MakeIdTokenizer(kVocabulary, -1, -1);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    auto writer = TokenFileWriter::Create(directory_ / "data.h5", **tokenizer, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int document = 0; document < 40; ++document)
      ASSERT_TRUE((*writer)->AddDocument(std::vector<int32_t>(100, document), {}).ok());
    ASSERT_TRUE((*writer)->Finish().ok());
  }

  // There for all ranks but the last.
  std::string Data() const {
    return directory_ / (World().rank() + 1 < World().size() ? "data.h5" : "missing.h5");
  }
  std::string Model() const { return directory_ / "model.ckpt"; }

  // As a rank that looks late sees it: a run whose newest checkpoint is another one than the first
  // rank saw, and none that can be read.
  std::string Run() const {
    const std::string run = directory_ / absl::StrCat("run-", World().rank());
    std::filesystem::create_directories(run + "/checkpoints");
    if (World().rank() == 0)
      std::filesystem::create_directory_symlink(Model(), run + "/checkpoints/step-00000001");
    else
      std::filesystem::create_directory(run + "/checkpoints/step-00000002");
    return run;
  }

  void ExpectToldEverywhere(const absl::Status& status) {
    const int last = World().size() - 1;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(World().rank() < last ? absl::StrCat("rank ", last, " failed")
                                                : std::string("missing.h5")));
    // Ranks that are not where the others are would take another's text for this one.
    const auto texts = World().AllGather("here");
    ASSERT_TRUE(texts.ok()) << texts.status();
    EXPECT_THAT(*texts, testing::Each("here"));
  }

  SharedDirectory directory_;
};

TEST_F(LoneFailureTest, Evaluate) {
  ExpectToldEverywhere(RunEvaluate({.from = Model(),
                                    .data = Data(),
                                    .teacher = "",
                                    .held_out_fraction = 0.5,
                                    .sequence_length = 64,
                                    .recall_lengths = {},
                                    .json = "",
                                    .device = DeviceChoice::kCpu},
                                   World()));
}

TEST_F(LoneFailureTest, Convert) {
  ExpectToldEverywhere(ConvertCheckpoint(
      {.from = Model(), .out = directory_ / "out.ckpt", .keep = "", .options = {}, .data = Data()},
      CpuSession(), World()));
}

TEST_F(LoneFailureTest, Select) {
  SelectionConfig config;
  config.candidates = Model();
  config.data = Data();
  config.held_out = 0.5;
  config.sequence_length = config.recall_length = 64;
  ExpectToldEverywhere(
      SelectInto(config, "select.yaml", directory_ / "keep.yaml", CpuSession(), World()));
}

TEST_F(LoneFailureTest, EveryRankReadsTheCheckpointThatTheFirstRankSaw) {
  const std::string run = Run();
  const auto resolved = ResolveCheckpoint(run, World());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(*resolved, directory_ / "run-0/checkpoints/step-00000001");
  const absl::Status evaluated = RunEvaluate({.from = run,
                                              .data = directory_ / "data.h5",
                                              .teacher = run,
                                              .held_out_fraction = 0.5,
                                              .sequence_length = 64,
                                              .recall_lengths = {},
                                              .json = "",
                                              .device = DeviceChoice::kCpu},
                                             World());
  EXPECT_TRUE(evaluated.ok()) << evaluated;
  const absl::Status converted = ConvertCheckpoint(
      {.from = run, .out = directory_ / "out.ckpt", .keep = "", .options = {}, .data = ""},
      CpuSession(), World());
  EXPECT_TRUE(converted.ok()) << converted;
}

TEST_F(LoneFailureTest, ARunThatTheFirstRankDoesNotFindIsToldEverywhere) {
  const auto resolved =
      ResolveCheckpoint(World().rank() == 0 ? directory_ / "missing" : Model(), World());
  EXPECT_THAT(std::string(resolved.status().message()), HasSubstr("missing: neither a checkpoint"));
}

}  // namespace
}  // namespace salamander
