#include "model/parallel/collective_watch.h"

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::chrono::milliseconds kSeveralLooks{500};

// A device of which a test says how far it came, under a watch that gives it a tenth of a second.
class CollectiveWatchTest : public testing::Test {
 protected:
  std::string Told() {
    auto told = told_.get_future();
    if (told.wait_for(std::chrono::seconds(30)) != std::future_status::ready) return "nothing";
    return std::string(told.get().message());
  }

  std::atomic<int64_t> ended_ = 0;
  std::atomic<bool> is_broken_ = false;
  std::atomic<std::chrono::seconds> pause_ = std::chrono::seconds(0);  // of the next look
  std::atomic<int> times_told_ = 0;
  std::promise<absl::Status> told_;
  CollectiveWatch watch_{{.rank = 3,
                          .timeout_seconds = 0.1,
                          .ended = [this]() -> absl::StatusOr<int64_t> {
                            const int64_t ended = ended_;
                            std::this_thread::sleep_for(pause_.exchange({}));
                            if (is_broken_) return absl::InternalError("the link is down");
                            return ended;
                          },
                          .on_failure =
                              [this](const absl::Status& status) {
                                if (times_told_++ == 0) told_.set_value(status);
                              }}};
};

TEST_F(CollectiveWatchTest, NamesTheCollectiveThatDoesNotEnd) {
  watch_.Begin("broadcast", 8);
  watch_.Begin("all-reduce (sum)", 4000);
  watch_.Begin("broadcast", 16);
  ended_ = 1;
  EXPECT_THAT(Told(), AllOf(HasSubstr("rank 3: all-reduce (sum) number 2 of 4000 bytes"),
                            HasSubstr("did not end within 0.1 seconds")));
}

TEST_F(CollectiveWatchTest, NamesTheCollectiveThatFailed) {
  watch_.Begin("all-reduce (sum)", 4000);
  is_broken_ = true;
  EXPECT_THAT(Told(), HasSubstr("rank 3: all-reduce (sum) number 1 of 4000 bytes failed: the link "
                                "is down"));
}

TEST_F(CollectiveWatchTest, TellsOnce) {
  watch_.Begin("broadcast", 8);
  Told();
  std::this_thread::sleep_for(kSeveralLooks);
  EXPECT_EQ(times_told_, 1);
}

TEST_F(CollectiveWatchTest, HasNothingToSayOfCollectivesThatEnd) {
  for (int number = 1; number <= 3; ++number) {
    watch_.Begin("broadcast", 8);
    ended_ = number;
  }
  std::this_thread::sleep_for(kSeveralLooks);
  EXPECT_EQ(times_told_, 0);
}

TEST_F(CollectiveWatchTest, GivesACollectiveItsTimeAfterAPauseOfTheProcess) {
  watch_.Begin("broadcast", 8);
  pause_ = std::chrono::seconds(4);
  while (pause_.load() != std::chrono::seconds(0)) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::seconds(1));  // the look is in its pause
  ended_ = 1;
  std::this_thread::sleep_for(std::chrono::seconds(3) + kSeveralLooks);
  EXPECT_EQ(times_told_, 0);
}

TEST_F(CollectiveWatchTest, KeepsTheLogOpenUntilTheDeviceIsDone) {
  CollectiveLog log(testing::TempDir() + "missing", "job", 3);
  std::atomic<int64_t> ended = 0;
  CollectiveWatch watch({.rank = 3,
                         .timeout_seconds = 0,
                         .log = &log,
                         .group = "tensor",
                         .ended = [&]() -> absl::StatusOr<int64_t> { return ended.load(); },
                         .on_failure = [](const absl::Status&) {}});
  watch.Begin("all-gather", 4000);
  watch.Begin("broadcast", 8);
  EXPECT_THAT(CollectiveText(log.record(), MonotonicNanoseconds()),
              HasSubstr("number 1, all-gather of 4000 bytes in group tensor, begun"));
  ended = 1;
  while (log.record().oldest_open.number == 1) std::this_thread::yield();
  EXPECT_EQ(log.record().oldest_open.number, 2);
  ended = 2;
  while (log.record().oldest_open.number == 2) std::this_thread::yield();
  EXPECT_THAT(CollectiveText(log.record(), MonotonicNanoseconds()), HasSubstr("number 2"));
}

TEST_F(CollectiveWatchTest, ClosesTheLogOfWhatItGivesUp) {
  CollectiveLog log(testing::TempDir() + "missing", "job", 3);
  {
    CollectiveWatch watch({.rank = 3,
                           .timeout_seconds = 0,
                           .log = &log,
                           .group = "tensor",
                           .ended = []() -> absl::StatusOr<int64_t> { return 0; },
                           .on_failure = [](const absl::Status&) {}});
    watch.Begin("all-gather", 4000);
  }
  EXPECT_EQ(log.record().oldest_open.number, 0);
}

}  // namespace
}  // namespace salamander
