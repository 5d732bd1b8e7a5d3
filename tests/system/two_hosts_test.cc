// A job on two hosts with a wire between them, through scripts/launch/mpirun: whatever becomes of
// the other host, the job ends within a time that is stated, names the ranks that were lost and
// their last collective, and goes on to the same bits. Skipped where the system does not let us
// make hosts (tests/system/two_hosts).

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

#include "tests/system/same_run.h"
#include "tests/system/tiny_road.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

constexpr char kTwoHosts[] = SALAMANDER_SOURCE_DIR "/tests/system/two_hosts";
constexpr char kLaunch[] = SALAMANDER_SOURCE_DIR "/scripts/launch/mpirun";

constexpr char kRecipe[] = R"(name: two-hosts
run_directory: RUN
seed: 7
model: {shape: model.yaml}
data:
  text: {path: tokens.h5, held_out: 0.2}
stages:
  - name: lm
    objective: lm
    sequence_length: 64
    tokens: 38400
    batch_tokens: 256
    peak_lr: 3e-3
    mixture: {text: 1}
evaluation: {sequences: 4}
checkpoint: {every_steps: 15, keep_last: 2}
)";
constexpr char kLastCheckpoint[] = "/checkpoints/step-00000150";

// What the test waits for before it strikes: some checkpoints are there, most of the run is left.
constexpr int64_t kStepsBefore = 20;

// To end after a host was lost: silence, then what scripts/launch/mpirun grants its mpirun, then
// the starts and ends of processes.
constexpr int kSilenceSeconds = 5;
constexpr double kSecondsToEnd = kSilenceSeconds + 15 + 20;

class TwoHostsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("SALAMANDER_SILENCE_SECONDS", absl::StrCat(kSilenceSeconds).c_str(), 1);
    road = std::make_unique<TinyRoad>();
    const Outcome check =
        RunProgram({.directory = road->directory(), .launcher = {kTwoHosts, "check"}});
    if (check.exit_code != 0) {
      missing = check.errors;
    } else {
      Finish("reference");
    }
  }
  static void TearDownTestSuite() {
    road.reset();
    unsetenv("SALAMANDER_SILENCE_SECONDS");
  }
  void SetUp() override {
    if (!missing.empty()) GTEST_SKIP() << "no two hosts here: " << missing;
  }

  static Launch Train(const std::string& run) {
    WriteText(road->Path(run + ".yaml"), absl::StrReplaceAll(kRecipe, {{"RUN", run}}));
    const std::string& folder = road->directory();
    return {
        .arguments = {"train", run + ".yaml"},
        .directory = folder,
        .launcher = {kTwoHosts, "run", folder, kLaunch, "--hostfile", folder + "/hosts/hostfile",
                     // Enters the other host as ssh would.
                     "--mca", "plm_rsh_agent", folder + "/hosts/agent",
                     // No search for network hardware; shared memory as containers allow it.
                     "--mca", "pml", "ob1", "--mca", "btl", "self,vader,tcp", "--mca",
                     "btl_vader_single_copy_mechanism", "none",
                     // Four ranks on the cores of one machine.
                     "--mca", "mpi_yield_when_idle", "1"},
        .timeout_seconds = kSecondsToEnd};
  }
  static void Finish(const std::string& run) {
    const Outcome outcome = RunProgram(Train(run));
    EXPECT_EQ(outcome.exit_code, 0) << outcome;
  }

  static int64_t LinesOf(const std::string& run) {
    const std::string text = ReadText(road->Path(run + "/metrics.jsonl"));
    return std::count(text.begin(), text.end(), '\n');
  }

  static void AwaitTheMiddle(Program& program, const std::string& run) {
    while (program.IsRunning() && LinesOf(run) < kStepsBefore)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(program.IsRunning());
  }

  // Does to a run in its middle what `two_hosts` is asked to, and gives what the job said.
  static Outcome StrikeInTheMiddle(const std::string& run, const std::vector<std::string>& strike) {
    Program program(Train(run));
    AwaitTheMiddle(program, run);
    // Not through Program: its Wait waits for the job too.
    const std::string command = absl::StrCat(kTwoHosts, " ", absl::StrJoin(strike, " "));
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    Outcome outcome = program.Wait();
    EXPECT_FALSE(outcome.timed_out) << outcome;
    EXPECT_NE(outcome.exit_code, 0) << outcome;
    return outcome;
  }

  static void ExpectGoesOnToTheSame(const std::string& run) {
    Finish(run);
    ExpectSameTensors(road->Path(run) + kLastCheckpoint, road->Path("reference") + kLastCheckpoint);
    EXPECT_EQ(MetricsOf(road->Path(run)), MetricsOf(road->Path("reference")));
  }

  static std::unique_ptr<TinyRoad> road;
  static std::string missing;  // why there are no two hosts
};

std::unique_ptr<TinyRoad> TwoHostsTest::road;
std::string TwoHostsTest::missing;

// Group, operation, bytes: those of the step's collectives.
const auto kNamesItsCollective = AllOf(HasSubstr("number "), HasSubstr(" bytes in group "));

TEST_F(TwoHostsTest, AHostThatLosesItsPowerIsNamedAndTheRunGoesOn) {
  const Outcome outcome = StrikeInTheMiddle("power", {"kill", road->directory()});
  // What it said last is up to a second old: on a quick machine, from before its first collective.
  const std::string lost =
      "is gone: its process ended without a word; its last collective, when last heard of: ";
  EXPECT_THAT(outcome.errors,
              AllOf(HasSubstr("the job ends: rank 2 on host-b (process "),
                    HasSubstr("; rank 3 on host-b (process "),
                    AnyOf(HasSubstr(lost + "number "), HasSubstr(lost + "none yet")),
                    kNamesItsCollective, HasSubstr("rank 0 on host-a (process ")));
  ExpectGoesOnToTheSame("power");
}

TEST_F(TwoHostsTest, AHostThatIsCutOffIsNamedEndsItselfAndTheRunGoesOn) {
  const Outcome outcome = StrikeInTheMiddle("wire", {"cut", road->directory()});
  EXPECT_THAT(outcome.errors,
              AllOf(HasSubstr("the job ends: rank 2 on host-b (process "),
                    HasSubstr("; rank 3 on host-b (process "),
                    HasSubstr(absl::StrCat("was not heard of for ", kSilenceSeconds, " seconds")),
                    kNamesItsCollective, HasSubstr("rank 0 on host-a (process ")));
  ExpectGoesOnToTheSame("wire");
}

// Its neighbour reads what it left, and tells rank 0 on the other host.
TEST_F(TwoHostsTest, ARankKilledOnTheOtherHostIsNamedWithTheCollectiveItDiedIn) {
  const std::string kill_one =
      "'for file in /proc/[0-9]*/comm; do if grep -qsx salamander $file; then kill -KILL "
      "$(basename $(dirname $file)); exit; fi; done; exit 1'";
  const Outcome outcome =
      StrikeInTheMiddle("rank", {"on", road->directory(), "host-b", "sh", "-c", kill_one});
  EXPECT_THAT(outcome.errors,
              AllOf(AnyOf(HasSubstr("the job ends: rank 2 on host-b (process "),
                          HasSubstr("the job ends: rank 3 on host-b (process ")),
                    HasSubstr("is gone: its process ended without a word; its last collective: "
                              "number "),
                    kNamesItsCollective));
  ExpectGoesOnToTheSame("rank");
}

TEST_F(TwoHostsTest, SigtermStopsTheRanksOfBothHosts) {
  Program program(Train("stopped"));
  AwaitTheMiddle(program, "stopped");
  program.Signal(SIGTERM);
  const Outcome outcome = program.Wait();
  EXPECT_EQ(outcome.exit_code, 0) << outcome;
  EXPECT_THAT(outcome.errors, HasSubstr("stopped as asked"));
  ExpectGoesOnToTheSame("stopped");
}

}  // namespace
}  // namespace salamander
