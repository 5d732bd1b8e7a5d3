#include "model/parallel/watch/watch_limits.h"

#include <cstdlib>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace salamander {
namespace {

class WatchLimitsTest : public testing::Test {
 protected:
  ~WatchLimitsTest() override {
    unsetenv("SALAMANDER_SILENCE_SECONDS");
    unsetenv("SALAMANDER_COLLECTIVE_SECONDS");
  }
};

TEST_F(WatchLimitsTest, TakesWhatTheEnvironmentSays) {
  unsetenv("SALAMANDER_COLLECTIVE_SECONDS");
  setenv("SALAMANDER_SILENCE_SECONDS", "5.5", 1);
  EXPECT_EQ(WatchLimits::FromEnvironment()->silence_seconds, 5.5);
  EXPECT_EQ(WatchLimits::FromEnvironment()->collective_seconds, 600);
  setenv("SALAMANDER_COLLECTIVE_SECONDS", "0", 1);
  EXPECT_EQ(WatchLimits::FromEnvironment()->collective_seconds, 0);
}

TEST_F(WatchLimitsTest, RefusesWhatIsNoTime) {
  for (const char* text : {"", "soon", "-1", "4.9", "nan"}) {
    setenv("SALAMANDER_SILENCE_SECONDS", text, 1);
    EXPECT_THAT(std::string(WatchLimits::FromEnvironment().status().message()),
                testing::HasSubstr(std::string("SALAMANDER_SILENCE_SECONDS: found '") + text +
                                   "', expected 5 seconds or more, or 0 for no limit"));
  }
}

}  // namespace
}  // namespace salamander
