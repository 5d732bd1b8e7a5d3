// A process that is killed at any moment of a save beside other work leaves a whole checkpoint or
// none, and the next save finds nothing in its way.
#include "trainer/run/background_save.h"

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "tests/storage/temporary_directory.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

constexpr int64_t kRows = 2000, kColumns = 1000;
constexpr int kTensors = 4;

std::vector<TensorPiece> PiecesOf(const TestTensor& values) {
  std::vector<TensorPiece> pieces;
  for (int index = 0; index < kTensors; ++index)
    pieces.push_back({absl::StrCat("weights/", index), {kRows, kColumns}, 0, values.View()});
  return pieces;
}

// Saves and exits; says in its exit code whether that worked.
[[noreturn]] void SaveIn(const std::string& path, const TestTensor& values) {
  const auto alone = SingleRankCommunicator();
  StagingMemory memory;
  auto save = BackgroundSave::Begin(path, PiecesOf(values), {}, *alone, {}, memory);
  _exit(save.ok() && (*save)->Finish(*alone).ok() ? 0 : 1);
}

TEST(BackgroundSaveKillTest, AKillAtAnyMomentLeavesAllOrNothing) {
  const TestTensor values = TestTensor::Normal(DType::kFloat32, {kRows, kColumns}, 1);
  const TemporaryDirectory directory;
  int killed = 0, survived = 0;
  // From at once to well past the end of a save, whatever the disk takes.
  for (int attempt = 0; attempt < 40 && (attempt < 12 || survived == 0); ++attempt) {
    const std::string path = directory / CheckpointName(attempt);
    const pid_t child = fork();
    if (child == 0) SaveIn(path, values);
    usleep(static_cast<useconds_t>(1000 + 6000 * attempt * (attempt < 12 ? 1 : attempt)));
    kill(child, SIGKILL);
    int code = 0;
    ASSERT_EQ(waitpid(child, &code, 0), child);
    (WIFSIGNALED(code) ? killed : survived) += 1;
    if (!std::filesystem::exists(path)) {
      EXPECT_TRUE(WIFSIGNALED(code)) << "attempt " << attempt;
      continue;
    }
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_TRUE(checkpoint->Verify().ok()) << "attempt " << attempt;
    EXPECT_EQ(checkpoint->tensors().size(), static_cast<size_t>(kTensors));
  }
  EXPECT_GT(killed, 0);
  EXPECT_GT(survived, 0);
  // What the killed left goes with the next save.
  const auto alone = SingleRankCommunicator();
  StagingMemory memory;
  auto save = BackgroundSave::Begin(directory / CheckpointName(99), PiecesOf(values), {}, *alone,
                                    {}, memory);
  ASSERT_TRUE(save.ok()) << save.status();
  ASSERT_TRUE((*save)->Finish(*alone).ok());
  for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
    EXPECT_NE(entry.path().filename().string().front(), '.') << entry.path();
}

}  // namespace
}  // namespace salamander
