#include "trainer/run/host_memory.h"

#include <filesystem>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "data/storage/file_bytes.h"
#include "tests/storage/temporary_directory.h"

namespace salamander {
namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;

// A root with what the kernel shows of a machine that has 100 MiB left.
class HostMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    Write("/proc/meminfo", "MemTotal: 999999 kB\nMemAvailable: 102400 kB\nHugePages_Total: 0\n");
  }
  void Write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_.path() + path;
    std::filesystem::create_directories(file.parent_path());
    ASSERT_TRUE(WriteFileBytes(file.string(), text).ok());
  }
  void Write(const std::string& path, int64_t mebibytes) const {
    Write(path, std::to_string(mebibytes * kMebibyte) + "\n");
  }
  int64_t Available() const { return AvailableHostBytes(root_.path()) / kMebibyte; }

  const TemporaryDirectory root_;
};

TEST_F(HostMemoryTest, TheMachinesWhereNoGroupLimitsIt) {
  EXPECT_EQ(Available(), 100);
  Write("/proc/self/cgroup", "0::/user\n");
  Write("/sys/fs/cgroup/user/memory.max", "max\n");
  Write("/sys/fs/cgroup/user/memory.current", 3);
  EXPECT_EQ(Available(), 100);
}

TEST_F(HostMemoryTest, NoneIsKnown) {
  EXPECT_EQ(AvailableHostBytes(root_ / "nowhere"), std::numeric_limits<int64_t>::max());
}

TEST_F(HostMemoryTest, TheTightestGroupOfVersion2) {
  Write("/proc/self/cgroup", "0::/slice/job\n");
  Write("/sys/fs/cgroup/slice/job/memory.max", 60);
  Write("/sys/fs/cgroup/slice/job/memory.current", 10);
  EXPECT_EQ(Available(), 50);
  Write("/sys/fs/cgroup/slice/memory.max", 64);
  Write("/sys/fs/cgroup/slice/memory.current", 32);
  EXPECT_EQ(Available(), 32);
  Write("/sys/fs/cgroup/slice/memory.stat",
        "anon 5\ninactive_file " + std::to_string(8 * kMebibyte) + "\nactive_file 7\n");
  EXPECT_EQ(Available(), 40);
  Write("/sys/fs/cgroup/slice/memory.current", 80);
  EXPECT_EQ(Available(), 0);
}

TEST_F(HostMemoryTest, AContainersMountIsItsOwnGroup) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", 30);
  Write("/sys/fs/cgroup/memory.current", 10);
  EXPECT_EQ(Available(), 20);
}

TEST_F(HostMemoryTest, TheTightestGroupOfVersion1) {
  Write("/proc/self/cgroup", "5:devices:/elsewhere\n4:cpu,memory:/docker/id\n0::/\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/memory/memory.usage_in_bytes", 1);
  EXPECT_EQ(Available(), 100);
  Write("/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", 40);
  Write("/sys/fs/cgroup/memory/docker/memory.usage_in_bytes", 30);
  Write("/sys/fs/cgroup/memory/docker/memory.stat",
        "inactive_file 0\ntotal_inactive_file " + std::to_string(5 * kMebibyte) + "\n");
  EXPECT_EQ(Available(), 15);
}

TEST_F(HostMemoryTest, ThisMachineHasSome) {
  EXPECT_GT(AvailableHostBytes(), 0);
}

}  // namespace
}  // namespace salamander
