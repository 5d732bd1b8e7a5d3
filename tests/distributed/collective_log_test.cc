#include "model/parallel/watch/collective_log.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class CollectiveLogTest : public testing::Test {
 protected:
  CollectiveLogTest() {
    std::string pattern = testing::TempDir() + "collective-log-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~CollectiveLogTest() override { std::filesystem::remove_all(folder_); }

  std::string FileOf(int rank) const {
    return absl::StrCat(folder_, "/salamander-job-rank-", rank);
  }

  std::string folder_;
};

// Begins and ends collectives for ever, each of as many bytes as its number says.
[[noreturn]] void KeepLogging(CollectiveLog& log) {
  for (int64_t number = 1;; ++number) log.End(log.Begin("data", "all-reduce (sum)", number));
}

// So that a record that was torn shows.
void ExpectWhole(const RankRecord& record) {
  EXPECT_EQ(record.last.bytes, record.last.number);
  EXPECT_EQ(record.oldest_open.bytes, record.oldest_open.number);
  EXPECT_TRUE(record.oldest_open.number == 0 || record.oldest_open.number == record.last.number);
}

TEST_F(CollectiveLogTest, LeavesTheLastCollectiveOfAKilledProcess) {
  int ready[2] = {};
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    CollectiveLog log(folder_, "job", 3);
    log.End(log.Begin("world", "barrier", 0));
    log.Begin("data", "all-reduce (sum)", 4000);
    if (write(ready[1], "r", 1) == 1) pause();
    std::_Exit(1);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const auto record = CollectiveLog::Read(FileOf(3));
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->process, child);
  EXPECT_THAT(RankText(*record), StartsWith("rank 3 on "));
  EXPECT_THAT(CollectiveText(*record, record->last.begun_ns + 2'500'000'000),
              "number 2, all-reduce (sum) of 4000 bytes in group data, begun 2.5 s ago and not "
              "ended");
  close(ready[0]);
  close(ready[1]);
}

TEST_F(CollectiveLogTest, LeavesAWholeRecordWhereverTheProcessIsKilled) {
  for (int attempt = 0; attempt < 20; ++attempt) {
    const pid_t child = fork();
    if (child == 0) {
      CollectiveLog log(folder_, "job", attempt);
      KeepLogging(log);
    }
    for (auto record = CollectiveLog::Read(FileOf(attempt));
         !record.ok() || record->last.number < 1000;)
      record = CollectiveLog::Read(FileOf(attempt));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const auto record = CollectiveLog::Read(FileOf(attempt));
    ASSERT_TRUE(record.ok()) << record.status();
    ExpectWhole(*record);
  }
}

TEST_F(CollectiveLogTest, AReaderSeesWholeRecordsWhileTheyChange) {
  CollectiveLog log(folder_, "job", 0);
  std::atomic<bool> is_read = false;
  std::thread writer([&] {
    for (int64_t number = 1; !is_read; ++number) log.End(log.Begin("data", "broadcast", number));
  });
  for (int read = 0; read < 1000;) {
    const auto record = CollectiveLog::Read(FileOf(0));
    if (!record.ok()) continue;  // written to without a pause
    ExpectWhole(*record);
    ++read;
  }
  is_read = true;
  writer.join();
}

TEST_F(CollectiveLogTest, TellsTheOldestOfSeveralThatHaveNotEnded) {
  CollectiveLog log(folder_, "job", 0);
  EXPECT_EQ(CollectiveText(log.record(), 0), "none yet");
  const int64_t outer = log.Begin("data", "all-reduce (sum)", 4000);
  const int64_t inner = log.Begin("world", "broadcast", 16);
  EXPECT_THAT(CollectiveText(log.record(), MonotonicNanoseconds()), StartsWith("number 1, all-re"));
  log.End(outer);
  EXPECT_THAT(CollectiveText(log.record(), MonotonicNanoseconds()),
              AllOf(StartsWith("number 2, broadcast of 16 bytes in group world, begun"),
                    HasSubstr("not ended")));
  log.End(inner);
  EXPECT_THAT(CollectiveText(log.record(), log.record().last_ended_ns),
              "number 2, broadcast of 16 bytes in group world, ended 0 s ago");
}

TEST_F(CollectiveLogTest, CountsOnFromALargerNumber) {
  CollectiveLog log(folder_, "job", 0);
  log.End(log.Begin("world", "barrier", 0));
  log.AdvanceTo(7);
  EXPECT_EQ(CollectiveLog::Read(FileOf(0))->last.number, 7);
  log.AdvanceTo(3);
  const int64_t next = log.Begin("world", "barrier", 0);
  EXPECT_EQ(next, 8);
  log.End(next);
  EXPECT_THAT(CollectiveText(log.record(), log.record().last_ended_ns), HasSubstr("ended 0 s ago"));
}

TEST_F(CollectiveLogTest, HasAFolderThatCanBeWrittenTo) {
  const CollectiveLog log(RecordFolder(), absl::StrCat("collective-log-test-", getpid()), 0);
  EXPECT_THAT(std::string(log.record().file), StartsWith(RecordFolder() + "/salamander-"));
}

TEST_F(CollectiveLogTest, CutsTextsThatAreTooLong) {
  CollectiveLog log(folder_, "job", 0);
  log.Begin(std::string(100, 'g'), std::string(100, 'o'), 1);
  EXPECT_EQ(std::string(log.record().last.group), std::string(23, 'g'));
  EXPECT_EQ(std::string(log.record().last.operation), std::string(31, 'o'));
}

TEST_F(CollectiveLogTest, RemovesItsFileAtTheEnd) {
  {
    const CollectiveLog log(folder_, "job", 0);
    EXPECT_TRUE(std::filesystem::exists(FileOf(0)));
    EXPECT_EQ(log.record().file, FileOf(0));
  }
  EXPECT_FALSE(std::filesystem::exists(FileOf(0)));
}

TEST_F(CollectiveLogTest, KeepsTheRecordInTheProcessWhereNoFileCanBeMade) {
  CollectiveLog log(folder_ + "/missing", "job", 0);
  log.Begin("world", "barrier", 0);
  EXPECT_EQ(std::string(log.record().file), "");
  EXPECT_EQ(log.record().last.number, 1);
}

// In a process of its own, which may mount: a folder with room for a file's name and none of its
// bytes.
TEST_F(CollectiveLogTest, KeepsTheRecordInTheProcessWhereTheDiskIsFull) {
  constexpr int kNotAllowed = 77;
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS | (geteuid() == 0 ? 0 : CLONE_NEWUSER)) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("none", folder_.c_str(), "tmpfs", 0, "size=4k") != 0)
      std::_Exit(kNotAllowed);
    std::ofstream(folder_ + "/full") << std::string(4096, 'x') << std::flush;
    CollectiveLog log(folder_, "job", 0);
    log.Begin("world", "barrier", 0);
    const RankRecord record = log.record();
    std::_Exit(record.file[0] == 0 && record.last.number == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotAllowed)
    GTEST_SKIP() << "may not mount here: run in a container with CAP_SYS_ADMIN";
  EXPECT_EQ(status, 0);
}

TEST_F(CollectiveLogTest, DoesNotTakeAnotherFileForARecord) {
  EXPECT_FALSE(CollectiveLog::Read(FileOf(0)).ok());
  std::ofstream(FileOf(1)) << std::string(10, 'x');
  EXPECT_FALSE(CollectiveLog::Read(FileOf(1)).ok());
  std::ofstream(FileOf(2)) << std::string(10000, 'x');
  EXPECT_FALSE(CollectiveLog::Read(FileOf(2)).ok());
}

}  // namespace
}  // namespace salamander
