// Watches of several ranks in one process; ranks that die are processes of their own.
#include "model/parallel/watch/rank_watch.h"

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "model/parallel/watch/watch_link.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr std::chrono::seconds kPatience{30};

// A rank of a job: its log, its watch, what the watch told, and how it ended the process.
class WatchedRank {
 public:
  // `addresses`: rank 0's; not looked at on rank 0.
  WatchedRank(const std::string& folder, int rank, RankWatchOptions options,
              const std::string& addresses = "")
      : log_(folder, "job", rank) {
    options.tell = [this](const std::string& text) {
      const std::lock_guard<std::mutex> lock(mutex_);
      told_.push_back(text);
    };
    options.end_process = [this](int exit_code) { ended_.set_value(exit_code); };
    auto watch =
        rank == 0 ? RankWatch::Open(options, log_) : RankWatch::Join(options, log_, addresses);
    status_ = watch.status();
    if (watch.ok()) watch_ = *std::move(watch);
  }

  CollectiveLog& log() { return log_; }
  RankWatch& watch() { return *watch_; }
  void EndInOrder() { watch_.reset(); }
  const absl::Status& status() const { return status_; }

  // -1: it did not end.
  int ExitCode() {
    auto future = ended_.get_future();
    return future.wait_for(kPatience) == std::future_status::ready ? future.get() : -1;
  }
  std::string Told() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return absl::StrJoin(told_, "\n");
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> told_;
  std::promise<int> ended_;
  CollectiveLog log_;
  absl::Status status_;
  std::unique_ptr<RankWatch> watch_;  // last: its thread uses the others
};

class RankWatchTest : public testing::Test {
 protected:
  RankWatchTest() {
    std::string pattern = testing::TempDir() + "rank-watch-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~RankWatchTest() override {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  // Before the test has a thread of its own: a process that is told rank 0's addresses, or tells
  // its own, lives on in `rank`, and says when it is where the test wants it.
  void Fork(const std::function<void()>& live) {
    ASSERT_EQ(pipe(to_child_.data()), 0);
    ASSERT_EQ(pipe(from_child_.data()), 0);
    child_ = fork();
    if (child_ != 0) return;
    live();
    pause();
    std::_Exit(1);
  }
  static void WriteLine(const std::array<int, 2>& pipe, const std::string& text) {
    const std::string line = text + "\n";
    ASSERT_EQ(write(pipe[1], line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }
  static std::string ReadLine(const std::array<int, 2>& pipe) {
    std::string line;
    for (char byte = 0; read(pipe[0], &byte, 1) == 1 && byte != '\n';) line += byte;
    return line;
  }

  // Rank 2 in the child, in a collective.
  void ForkRankInCollective() {
    Fork([this] {
      const std::string addresses = ReadLine(to_child_);
      auto* const rank = new WatchedRank(folder_, 2, options_, addresses);
      rank->log().End(rank->log().Begin("world", "barrier", 0));
      rank->log().Begin("data", "all-reduce (sum)", 4000);
      WriteLine(from_child_, "ready");
    });
  }
  std::unique_ptr<WatchedRank> Hub() {
    auto hub = std::make_unique<WatchedRank>(folder_, 0, options_);
    EXPECT_TRUE(hub->status().ok()) << hub->status();
    return hub;
  }
  std::unique_ptr<WatchedRank> Member(int rank, WatchedRank& hub) {
    auto member = std::make_unique<WatchedRank>(folder_, rank, options_, hub.watch().addresses());
    EXPECT_TRUE(member->status().ok()) << member->status();
    return member;
  }

  RankWatchOptions options_{.token = "0123456789abcdef",
                            .ranks = 3,
                            .limits = {.silence_seconds = 0, .collective_seconds = 0},
                            .tell = {},
                            .end_process = {}};
  std::string folder_;
  pid_t child_ = -1;
  std::array<int, 2> to_child_ = {}, from_child_ = {};
};

TEST_F(RankWatchTest, NamesAKilledRankAndTheCollectiveItWasIn) {
  ForkRankInCollective();
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  WriteLine(to_child_, hub->watch().addresses());
  ASSERT_EQ(ReadLine(from_child_), "ready");
  kill(child_, SIGKILL);
  EXPECT_EQ(hub->ExitCode(), 1);
  EXPECT_EQ(member->ExitCode(), 1);
  EXPECT_THAT(hub->Told(), AllOf(HasSubstr("the job ends: rank 2 on "),
                                 HasSubstr(absl::StrCat("(process ", child_, ") is gone")),
                                 HasSubstr("its last collective: number 2, all-reduce (sum) of "
                                           "4000 bytes in group data, begun "),
                                 HasSubstr("rank 0 on ")));
  EXPECT_THAT(member->Told(), AllOf(HasSubstr("rank 1 on "), HasSubstr("ends with the job")));
  // What it left was read.
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/salamander-job-rank-2"));
}

TEST_F(RankWatchTest, NamesAStoppedRank) {
  options_.limits.silence_seconds = 5;
  ForkRankInCollective();
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  WriteLine(to_child_, hub->watch().addresses());
  ASSERT_EQ(ReadLine(from_child_), "ready");
  kill(child_, SIGSTOP);
  EXPECT_EQ(hub->ExitCode(), 1);
  EXPECT_EQ(member->ExitCode(), 1);
  EXPECT_THAT(hub->Told(), AllOf(HasSubstr("the job ends: rank 2 on "),
                                 HasSubstr("was not heard of for 5 seconds"),
                                 HasSubstr("number 2, all-reduce (sum)")));
}

TEST_F(RankWatchTest, EveryRankNamesAFirstRankThatWasKilled) {
  Fork([this] {
    auto* const hub = new WatchedRank(folder_, 0, options_);
    hub->log().Begin("world", "broadcast", 16);
    WriteLine(from_child_, hub->watch().addresses());
  });
  const std::string addresses = ReadLine(from_child_);
  WatchedRank first(folder_, 1, options_, addresses), second(folder_, 2, options_, addresses);
  ASSERT_TRUE(first.status().ok() && second.status().ok()) << first.status() << second.status();
  kill(child_, SIGKILL);
  for (WatchedRank* const rank : {&first, &second}) {
    EXPECT_EQ(rank->ExitCode(), 1);
    EXPECT_THAT(rank->Told(), AllOf(HasSubstr("the job ends: rank 0 on "), HasSubstr("is gone"),
                                    HasSubstr("number 1, broadcast of 16 bytes in group world")));
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/salamander-job-rank-0"));
}

TEST_F(RankWatchTest, PassesOnTheFailureOfARankAndItsExitCode) {
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  const auto failing = Member(2, *hub);
  failing->watch().TellFailure("t.h5: no such file", 7);
  for (WatchedRank* const rank : {hub.get(), member.get(), failing.get()})
    EXPECT_EQ(rank->ExitCode(), 7);
  EXPECT_THAT(hub->Told(), AllOf(HasSubstr("the job ends: rank 2 on "),
                                 HasSubstr("failed: t.h5: no such file")));
}

TEST_F(RankWatchTest, PassesOnTheFailureOfTheFirstRank) {
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  hub->watch().TellFailure("the disk is full", 3);
  EXPECT_EQ(hub->ExitCode(), 3);
  EXPECT_EQ(member->ExitCode(), 3);
  EXPECT_THAT(hub->Told(),
              AllOf(HasSubstr("the job ends: rank 0 on "), HasSubstr("failed: the disk is full")));
}

TEST_F(RankWatchTest, NamesTheRankThatDoesNotComeToACollective) {
  options_.limits.collective_seconds = 3;
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  const auto absent = Member(2, *hub);
  hub->log().Begin("world", "all-reduce (sum)", 4000);
  member->log().Begin("world", "all-reduce (sum)", 4000);
  EXPECT_EQ(hub->ExitCode(), 1);
  EXPECT_EQ(absent->ExitCode(), 1);
  EXPECT_THAT(hub->Told(), AllOf(HasSubstr("the job ends: rank 2 on "),
                                 HasSubstr("did not come to a collective which rank "),
                                 HasSubstr("number 1, all-reduce (sum) of 4000 bytes"),
                                 Not(HasSubstr("rank 1 on"))));
}

TEST_F(RankWatchTest, NamesTheRankThatEndedInOrderWhileOthersWaitForIt) {
  options_.limits.collective_seconds = 3;
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  const auto early = Member(2, *hub);
  for (WatchedRank* const rank : {hub.get(), member.get()})
    rank->log().Begin("world", "barrier", 0);
  early->EndInOrder();
  EXPECT_EQ(hub->ExitCode(), 1);
  EXPECT_EQ(member->ExitCode(), 1);
  EXPECT_THAT(hub->Told(),
              AllOf(HasSubstr("the job ends: rank 2 on "),
                    HasSubstr("has ended in order and did not come to a collective which rank "),
                    HasSubstr("its last collective: none yet"), Not(HasSubstr("rank 1 on"))));
}

TEST_F(RankWatchTest, AJobThatWasPausedHasAllItsTimeAfterwards) {
  options_.limits.collective_seconds = 3;
  Fork([this] {
    const auto hub = Hub();
    const auto member = Member(1, *hub);
    const std::array<WatchedRank*, 2> ranks = {hub.get(), member.get()};
    for (WatchedRank* const rank : ranks) rank->log().Begin("world", "barrier", 0);
    WriteLine(from_child_, "ready");
    EXPECT_EQ(ReadLine(to_child_), "end");
    for (WatchedRank* const rank : ranks) rank->log().End(1);
    WriteLine(from_child_, hub->Told() + member->Told() + ".");
    pause();
  });
  ASSERT_EQ(ReadLine(from_child_), "ready");
  kill(child_, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(5));
  kill(child_, SIGCONT);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  WriteLine(to_child_, "end");
  EXPECT_EQ(ReadLine(from_child_), ".");
}

TEST_F(RankWatchTest, EndsAJobWhoseRanksAreAllStuckInOneCollective) {
  options_.limits.collective_seconds = 3;
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  for (WatchedRank* const rank : {hub.get(), member.get()})
    rank->log().Begin("world", "barrier", 0);
  EXPECT_EQ(hub->ExitCode(), 1);
  EXPECT_EQ(member->ExitCode(), 1);
  EXPECT_THAT(hub->Told(), HasSubstr("the job ends: all ranks are in the same collective"));
}

TEST_F(RankWatchTest, SaysNothingOfRanksThatEndInOrder) {
  const auto hub = Hub();
  const auto first = Member(1, *hub), second = Member(2, *hub);
  const std::array<WatchedRank*, 3> ranks = {first.get(), second.get(), hub.get()};
  for (WatchedRank* const rank : ranks) rank->EndInOrder();
  for (WatchedRank* const rank : ranks) EXPECT_EQ(rank->Told(), "");
}

TEST_F(RankWatchTest, TheFirstRanksEndWaitsForTheOthers) {
  auto hub = Hub();
  auto member = Member(1, *hub);
  auto end = std::async(std::launch::async, [&] { hub.reset(); });
  EXPECT_EQ(end.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout);
  EXPECT_EQ(member->Told(), "");
  member.reset();
  EXPECT_EQ(end.wait_for(kPatience), std::future_status::ready);
}

TEST_F(RankWatchTest, KeepsOtherJobsOut) {
  const auto hub = Hub();
  RankWatchOptions options = options_;
  options.token = "another job's";
  const WatchedRank stranger(folder_, 1, options, hub->watch().addresses());
  EXPECT_THAT(std::string(stranger.status().message()), HasSubstr("is not rank 0's"));
  EXPECT_EQ(hub->Told(), "");
}

// What comes of these, over a link of the test's own, before the other end closes it.
std::vector<WatchMessage> AnswersTo(const std::vector<WatchMessage>& said,
                                    const std::string& addresses) {
  const std::vector<std::string> parts = absl::StrSplit(addresses, ' ');
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(parts.front())));
  inet_pton(AF_INET, parts.back().c_str(), &address.sin_addr);
  WatchLink link(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(link.socket(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0);
  EXPECT_EQ(fcntl(link.socket(), F_SETFL, O_NONBLOCK), 0);
  for (const WatchMessage& message : said) link.Send(message);
  for (const auto end = std::chrono::steady_clock::now() + kPatience;
       !link.is_closed() && std::chrono::steady_clock::now() < end;) {
    auto messages = link.Exchange();
    if (!messages.empty()) return messages;
    AwaitSockets({{link.socket()}}, 100);
  }
  EXPECT_TRUE(link.is_closed());
  return {};
}

TEST_F(RankWatchTest, AdmitsEachRankOfTheJobOnce) {
  const auto hub = Hub();
  const auto member = Member(1, *hub);
  for (const int rank : {-1, 0, 1, 3}) {
    RankRecord record;
    record.rank = rank;
    const auto hello = WatchMessage::Of(WatchMessageKind::kHello, record, options_.token);
    EXPECT_TRUE(AnswersTo({hello}, hub->watch().addresses()).empty()) << rank;
  }
  EXPECT_EQ(hub->Told(), "");
}

TEST_F(RankWatchTest, SendsAwayWhoSaysNoHello) {
  const auto hub = Hub();
  EXPECT_TRUE(AnswersTo({}, hub->watch().addresses()).empty());
  EXPECT_TRUE(AnswersTo({WatchMessage{}}, hub->watch().addresses()).empty());
  EXPECT_EQ(hub->Told(), "");
}

TEST_F(RankWatchTest, TakesNoEchoForTheFirstRank) {
  auto door = WatchDoor::Open();
  ASSERT_TRUE(door.ok()) << door.status();
  std::atomic<bool> is_over = false;
  std::thread echo([&] {
    std::vector<std::unique_ptr<WatchLink>> links;
    while (!is_over) {
      AwaitSockets({{(*door)->socket()}}, 10);
      if (auto link = (*door)->Accept()) links.push_back(std::move(link));
      for (const auto& link : links) {
        for (const WatchMessage& message : link->Exchange()) link->Send(message);
      }
    }
  });
  const std::string addresses = absl::StrCat(
      std::vector<std::string>(absl::StrSplit((*door)->addresses(), ' '))[0], " 127.0.0.1");
  const WatchedRank rank(folder_, 1, options_, addresses);
  EXPECT_THAT(std::string(rank.status().message()), HasSubstr("is not rank 0's"));
  is_over = true;
  echo.join();
}

}  // namespace
}  // namespace salamander
