// The command line itself: help with examples, the version, and wrong calls.

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/system/program.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr const char* kCommands[] = {"tokenize", "import",   "convert", "train",   "select",
                                     "evaluate", "generate", "export",  "inspect", "bench"};

Outcome RunWith(const std::vector<std::string>& arguments, int ranks = 1) {
  return RunProgram({.arguments = arguments, .directory = "/", .ranks = ranks});
}

void ExpectWrong(const std::vector<std::string>& arguments, const std::string& part,
                 int ranks = 1) {
  const Outcome outcome = RunWith(arguments, ranks);
  EXPECT_EQ(outcome.exit_code, 2) << outcome;
  EXPECT_THAT(outcome.errors, HasSubstr(part));
  EXPECT_EQ(outcome.output, "");
}

TEST(CommandLineTest, HelpNamesEveryCommand) {
  const Outcome outcome = RunWith({"--help"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome;
  for (const char* command : kCommands) EXPECT_THAT(outcome.output, HasSubstr(command));
}

TEST(CommandLineTest, EveryCommandsHelpHasAnExample) {
  for (const char* command : kCommands) {
    const Outcome outcome = RunWith({command, "--help"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome;
    EXPECT_THAT(outcome.output, HasSubstr(std::string("Example:\n  salamander ") + command + " "));
  }
}

TEST(CommandLineTest, VersionIsPrinted) {
  const Outcome outcome = RunWith({"--version"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome;
  EXPECT_EQ(outcome.output, SALAMANDER_VERSION "\n");
}

TEST(CommandLineTest, WrongCallsExitWithTwoAndSayWhatIsWrong) {
  ExpectWrong({}, "--help");
  ExpectWrong({"fly"}, "salamander fly: there is no such command; expected one of tokenize");
  ExpectWrong({"train"}, "recipe is required");
  ExpectWrong({"import", "folder"}, "--out is required");
  ExpectWrong({"generate", "run", "--bogus"}, "--bogus");
  ExpectWrong({"convert", "a", "--out", "b", "--all", "--keep", "0"}, "excludes");
  ExpectWrong({"generate", "run", "--prompt", "a", "--prompt-file", "b"}, "excludes");
}

TEST(CommandLineTest, NumbersOutOfRangeAreRefused) {
  ExpectWrong({"generate", "run", "--temperature", "-1"}, "--temperature: -1; expected");
  ExpectWrong({"generate", "run", "--top-p", "1.5"}, "--top-p: 1.5; expected a number of 0 to 1");
  ExpectWrong({"generate", "run", "--max-new-tokens", "many"}, "many");
  ExpectWrong({"generate", "run", "--seed", "99999999999999999999"}, "--seed");
  ExpectWrong({"export", "run", "--out", "x", "--shard-bytes", "0"}, "--shard-bytes: 0; expected");
  ExpectWrong({"evaluate", "run", "--data", "t.h5", "--held-out", "2"}, "--held-out: 2; expected");
}

TEST(CommandLineTest, DevicesAreNamedOnes) {
  for (const char* command : {"convert", "select", "evaluate", "generate"}) {
    ExpectWrong({command, "x", "--device", "tpu"},
                "--device: tpu; expected one of auto, cpu, cuda");
  }
}

TEST(CommandLineTest, TwoRanksSayItOnce) {
  const Outcome outcome = RunWith({"fly"}, 2);
  EXPECT_EQ(outcome.exit_code, 2) << outcome;
  const std::string message = "there is no such command";
  const size_t first = outcome.errors.find(message);
  ASSERT_NE(first, std::string::npos) << outcome;
  EXPECT_EQ(outcome.errors.find(message, first + 1), std::string::npos) << outcome;
}

}  // namespace
}  // namespace salamander
