#include "data/storage/atomic_path.h"

#include <filesystem>
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/storage/file_bytes.h"
#include "tests/storage/full_disk.h"
#include "tests/storage/temporary_directory.h"

namespace salamander {
namespace {

using ::testing::HasSubstr;

// Runs `body` in a child that then dies on the spot, as by kill -9: no destructor runs.
void RunAndDie(const std::function<void()>& body) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
}

TEST(AtomicFileTest, ReplacesTheOldFileOnCommitOnly) {
  const TemporaryDirectory directory;
  const std::string path = directory / "file";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  {
    auto abandoned = AtomicFile::Begin(path);
    ASSERT_TRUE(abandoned.ok()) << abandoned.status();
    ASSERT_TRUE(WriteFileBytes(abandoned->temporary_path(), "never").ok());
  }
  EXPECT_EQ(*ReadFileBytes(path, 100), "old");
  EXPECT_EQ(directory.entry_count(), 1);
  ASSERT_TRUE(WriteFileAtomically(path, "new").ok());
  EXPECT_EQ(*ReadFileBytes(path, 100), "new");
  EXPECT_EQ(directory.entry_count(), 1);
}

TEST(AtomicFileTest, FullDiskLeavesTheOldFile) {
  const TemporaryDirectory directory;
  const std::string path = directory / "file";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  absl::Status status;
  {
    const FileSizeLimit limit(1000);
    status = WriteFileAtomically(path, std::string(2000, 'x'));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("free space"));
  EXPECT_EQ(*ReadFileBytes(path, 100), "old");
  EXPECT_EQ(directory.entry_count(), 1);
}

TEST(AtomicFileTest, NoSpaceIsSaidAsSuch) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "this system has no /dev/full";
  const absl::Status status = WriteFileBytes("/dev/full", "bytes");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("No space left"));
}

TEST(AtomicFileTest, PathThatCannotBeWrittenIsAnErrorAtBegin) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(WriteFileAtomically(directory / "file", "x").ok());
  const absl::Status below_file = AtomicFile::Begin(directory / "file/below").status();
  EXPECT_EQ(below_file.code(), absl::StatusCode::kFailedPrecondition) << below_file;
  EXPECT_THAT(std::string(below_file.message()), HasSubstr("file/below"));
  EXPECT_EQ(AtomicFile::Begin(directory / "absent/file").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(AtomicFile::Begin(directory.path()).ok());
  EXPECT_EQ(AtomicFile::Begin("/proc/file").status().code(), absl::StatusCode::kNotFound);
}

TEST(AtomicDirectoryTest, IsCompleteOrAbsent) {
  const TemporaryDirectory directory;
  const std::string path = directory / "final";
  {
    auto abandoned = AtomicDirectory::Begin(path);
    ASSERT_TRUE(abandoned.ok()) << abandoned.status();
    ASSERT_TRUE(WriteFileBytes(abandoned->temporary_path() + "/part", "1").ok());
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  EXPECT_EQ(directory.entry_count(), 0);
  auto written = AtomicDirectory::Begin(path + "/");
  ASSERT_TRUE(written.ok()) << written.status();
  ASSERT_TRUE(WriteFileBytes(written->temporary_path() + "/part", "1").ok());
  ASSERT_TRUE(written->Commit().ok());
  EXPECT_EQ(*ReadFileBytes(path + "/part", 10), "1");
  EXPECT_EQ(directory.entry_count(), 1);
}

TEST(AtomicDirectoryTest, NeverReplaces) {
  const TemporaryDirectory directory;
  const std::string path = directory / "final";
  auto late = AtomicDirectory::Begin(path);
  ASSERT_TRUE(late.ok());
  std::filesystem::create_directory(path);  // somebody else was faster
  EXPECT_EQ(late->Commit().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(AtomicDirectory::Begin(path).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::is_empty(path));
}

TEST(LeftoversTest, OfAKilledWriterAreRemovedAndOfALiveOneAreNot) {
  const TemporaryDirectory directory;
  RunAndDie([&] {
    auto dead_directory = AtomicDirectory::Begin(directory / "checkpoint");
    if (dead_directory.ok()) {
      (void)WriteFileBytes(dead_directory->temporary_path() + "/part", "1");
    }
    auto dead_file = AtomicFile::Begin(directory / "file");
    _exit(0);
  });
  EXPECT_EQ(directory.entry_count(), 2);
  auto live = AtomicDirectory::Begin(directory / "checkpoint");
  ASSERT_TRUE(live.ok());
  ASSERT_TRUE(WriteFileBytes(directory / ".hidden", "not ours").ok());
  auto removed = RemoveLeftovers(directory.path(), Leftovers::kOfDeadWriters);
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(*removed, 2);
  EXPECT_TRUE(std::filesystem::exists(live->temporary_path()));
  EXPECT_EQ(*RemoveLeftovers(directory.path(), Leftovers::kAll), 1);
  EXPECT_TRUE(std::filesystem::exists(directory / ".hidden"));
  EXPECT_EQ(*RemoveLeftovers(directory / "absent", Leftovers::kAll), 0);
}

TEST(LeftoversTest, OfAnotherMachineStayUnlessAllAreTaken) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(WriteFileBytes(directory / ".x.partial-another_machine-1-1-0", "").ok());
  EXPECT_EQ(*RemoveLeftovers(directory.path(), Leftovers::kOfDeadWriters), 0);
  EXPECT_EQ(*RemoveLeftovers(directory.path(), Leftovers::kAll), 1);
}

TEST(RemoveDirectoryTest, RemovesAllBelow) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(CreateDirectories(directory / "a/b/c").ok());
  ASSERT_TRUE(WriteFileBytes(directory / "a/b/file", "x").ok());
  ASSERT_TRUE(RemoveDirectoryAtomically(directory / "a").ok());
  EXPECT_EQ(directory.entry_count(), 0);
  EXPECT_EQ(RemoveDirectoryAtomically(directory / "a").code(), absl::StatusCode::kNotFound);
}

TEST(FileBytesTest, RefusesAFileLargerThanExpected) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(WriteFileBytes(directory / "file", "12345").ok());
  EXPECT_FALSE(ReadFileBytes(directory / "file", 4).ok());
  EXPECT_EQ(*ReadFileBytes(directory / "file", 5), "12345");
  EXPECT_FALSE(ReadFileBytes(directory.path(), 5).ok());
}

}  // namespace
}  // namespace salamander
