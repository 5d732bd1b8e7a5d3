// A rank of four that is killed, stopped or hangs ends the job, and is named with its last
// collective. That the run goes on bit for bit: resume_test.cc.

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "model/parallel/watch/collective_log.h"
#include "tests/system/tiny_road.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kRanks = 4;

constexpr char kRecipe[] = R"(name: lost
run_directory: lost
model: {shape: model.yaml}
data:
  text: {path: tokens.h5, held_out: 0.2}
stages:
  - name: lm
    objective: lm
    sequence_length: 64
    tokens: 50M
    batch_tokens: 256
    peak_lr: 3e-3
    mixture: {text: 1}
)";

class LostRankTest : public testing::Test {
 protected:
  LostRankTest() { WriteText(road_.Path("lost.yaml"), kRecipe); }
  ~LostRankTest() override {
    unsetenv("SALAMANDER_SILENCE_SECONDS");
    unsetenv("SALAMANDER_COLLECTIVE_SECONDS");
  }

  // A run that is in the middle of its steps.
  std::unique_ptr<Program> Running() {
    std::filesystem::remove_all(road_.Path("lost"));
    auto program = std::make_unique<Program>(road_.MakeLaunch({"train", "lost.yaml"}, kRanks));
    const auto lines = [&] {
      const std::string text = ReadText(road_.Path("lost/metrics.jsonl"));
      return std::count(text.begin(), text.end(), '\n');
    };
    while (program->IsRunning() && lines() < 20)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(program->IsRunning());
    return program;
  }

  static void ExpectNames(int rank, pid_t process, const std::string& what, Program& program) {
    const Outcome outcome = program.Wait();
    EXPECT_FALSE(outcome.timed_out) << outcome;
    EXPECT_GT(outcome.exit_code, 0) << outcome;
    char host[256] = {};
    gethostname(host, sizeof(host) - 1);
    EXPECT_THAT(outcome.errors,
                AllOf(HasSubstr(absl::StrCat("the job ends: rank ", rank, " on ", host,
                                             " (process ", process, ") ", what)),
                      HasSubstr("; its last collective"), HasSubstr(": number "),
                      HasSubstr(" bytes in group ")));
  }

  TinyRoad road_;
};

// The record that a process keeps.
std::string RecordOf(pid_t process) {
  for (const auto& entry : std::filesystem::directory_iterator(RecordFolder())) {
    const std::string file = entry.path().string();
    if (!absl::StrContains(file, "/salamander-")) continue;
    const auto record = CollectiveLog::Read(file);
    if (record.ok() && record->process == process) return file;
  }
  return "";
}

// Stops the main thread of a process, and no other, until it gets a signal that ends it.
bool StopMainThread(pid_t process) {
  int status = 0;
  return ptrace(PTRACE_INTERRUPT, process, nullptr, nullptr) == 0 &&
         waitpid(process, &status, __WALL) == process && WIFSTOPPED(status);
}

enum class Hold : char { kHeld = 'h', kNotAllowed = 'n', kFailed = 'f' };

// Holds the main thread where it is in no collective, until the process is gone. In a process of
// its own: whoever holds a thread hears of its end before its parent does.
Hold HoldOutsideCollectives(pid_t process, const std::string& record) {
  std::array<int, 2> answers = {};
  EXPECT_EQ(pipe(answers.data()), 0);
  if (fork() == 0) {
    const auto answer = [&](Hold hold) {
      if (write(answers[1], &hold, 1) != 1 || hold != Hold::kHeld) std::_Exit(1);
    };
    if (ptrace(PTRACE_SEIZE, process, nullptr, nullptr) != 0)
      answer(errno == EPERM ? Hold::kNotAllowed : Hold::kFailed);
    while (true) {
      if (!StopMainThread(process)) answer(Hold::kFailed);
      const auto read = CollectiveLog::Read(record);
      if (read.ok() && read->oldest_open.number == 0) break;
      ptrace(PTRACE_CONT, process, nullptr, nullptr);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // or it would never leave it
    }
    answer(Hold::kHeld);
    int status = 0;
    while (waitpid(process, &status, __WALL) == process && WIFSTOPPED(status)) continue;
    std::_Exit(0);
  }
  close(answers[1]);  // so that the end of a child that says nothing is seen
  Hold answer = Hold::kFailed;
  EXPECT_EQ(read(answers[0], &answer, 1), 1);
  close(answers[0]);
  return answer;
}

TEST_F(LostRankTest, IsNamedWhicheverRankIsKilled) {
  for (int rank = 0; rank < kRanks; ++rank) {
    const auto program = Running();
    const pid_t process = program->ProcessOf(rank);
    ASSERT_GT(process, 0);
    kill(process, SIGKILL);
    ExpectNames(rank, process, "is gone: its process ended without a word", *program);
  }
}

TEST_F(LostRankTest, IsNamedWhenItsProcessIsStopped) {
  setenv("SALAMANDER_SILENCE_SECONDS", "5", 1);
  const auto program = Running();
  const pid_t process = program->ProcessOf(2);
  ASSERT_GT(process, 0);
  kill(process, SIGSTOP);
  ExpectNames(2, process, "was not heard of for 5 seconds", *program);
}

TEST_F(LostRankTest, IsNamedWhenItHangs) {
  // More than any rank takes between two collectives, on a machine with much else to do.
  constexpr double kSeconds = 10 * SALAMANDER_TEST_PATIENCE;
  setenv("SALAMANDER_COLLECTIVE_SECONDS", absl::StrCat(kSeconds).c_str(), 1);
  const auto program = Running();
  const pid_t process = program->ProcessOf(2);
  ASSERT_GT(process, 0);
  const Hold hold = HoldOutsideCollectives(process, RecordOf(process));
  if (hold != Hold::kHeld) {
    program->Signal(SIGTERM);
    program->Wait();
    ASSERT_EQ(hold, Hold::kNotAllowed);
    GTEST_SKIP() << "may not ptrace here: run in a container with CAP_SYS_PTRACE";
  }
  ExpectNames(2, process, "did not come to a collective which rank ", *program);
}

}  // namespace
}  // namespace salamander
