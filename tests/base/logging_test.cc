#include "kernels/base/logging.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

class LoggingTest : public testing::Test {
 protected:
  ~LoggingTest() override { SetLogPosition({}); }

  static std::string Captured(const LogPosition& position, const std::function<void()>& log) {
    SetLogPosition(position);
    testing::internal::CaptureStderr();
    log();
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(LoggingTest, PrefixSaysStageStepAndRank) {
  EXPECT_THAT(Captured({.rank = 5, .stage = 2, .step = 1200}, [] { LogWarning("slow disk"); }),
              testing::HasSubstr("[stage 2 | step 1200 | rank 5] slow disk\n"));
}

TEST_F(LoggingTest, PrefixLeavesOutWhatIsNotKnown) {
  EXPECT_THAT(Captured({.rank = 0}, [] { LogInfo("reading"); }),
              testing::HasSubstr("[rank 0] reading\n"));
  const std::string line = Captured({}, [] { LogInfo("reading"); });
  EXPECT_THAT(line, testing::HasSubstr(" reading\n"));
  EXPECT_THAT(line, testing::Not(testing::HasSubstr("[")));
}

TEST_F(LoggingTest, OnlyTheFirstRankShowsInfo) {
  EXPECT_EQ(Captured({.rank = 1}, [] { LogInfo("reading"); }), "");
  EXPECT_NE(Captured({.rank = 1}, [] { LogWarning("reading"); }), "");
  EXPECT_NE(Captured({.rank = 1}, [] { LogError("reading"); }), "");
}

TEST_F(LoggingTest, BracesInAMessageAreText) {
  EXPECT_THAT(Captured({}, [] { LogInfo("found {} and {x}"); }),
              testing::HasSubstr("found {} and {x}\n"));
}

TEST_F(LoggingTest, PositionIsWhatWasSet) {
  SetLogPosition({.rank = 3, .stage = 1, .step = 9});
  EXPECT_EQ(GetLogPosition().rank, 3);
  EXPECT_EQ(GetLogPosition().stage, 1);
  EXPECT_EQ(GetLogPosition().step, 9);
}

TEST_F(LoggingTest, CheckThatHoldsSaysNothingAndEvaluatesOnce) {
  int evaluations = 0;
  EXPECT_EQ(Captured({}, [&] { SALAMANDER_CHECK(++evaluations == 1) << "never shown"; }), "");
  EXPECT_EQ(evaluations, 1);
}

using LoggingDeathTest = LoggingTest;

TEST_F(LoggingDeathTest, FailedCheckNamesRankPlaceConditionAndMessage) {
  SetLogPosition({.rank = 5, .stage = 2, .step = 7});
  const int heads = 3;
  EXPECT_DEATH(SALAMANDER_CHECK(heads % 2 == 0) << "heads " << heads,
               "\\[stage 2 \\| step 7 \\| rank 5\\] .*logging_test.cc:[0-9]+ "
               "check failed: heads % 2 == 0 heads 3");
}

}  // namespace
}  // namespace salamander
