#include "trainer/run/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace salamander {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// Where a version of control groups keeps what it says of a group's memory.
struct GroupFiles {
  const char* mount;
  const char* limit;
  const char* used;
  const char* reclaimable;  // a line of memory.stat, of the groups below as well
};
constexpr GroupFiles kVersion1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                  "memory.usage_in_bytes", "total_inactive_file"};
constexpr GroupFiles kVersion2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                  "inactive_file"};

// Nothing where there is no such file, or a word such as "max" in it.
std::optional<int64_t> NumberIn(const std::string& path) {
  std::ifstream file(path);
  int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

// Of the line that begins with `key`.
std::optional<int64_t> NumberAfter(const std::string& key, const std::string& path) {
  std::ifstream lines(path);
  std::string word, rest;
  for (int64_t number = 0; lines >> word >> number; std::getline(lines, rest)) {
    if (word == key) return number;
  }
  return std::nullopt;
}

int64_t LeftOfMachine(const std::string& root) {
  const auto kibibytes = NumberAfter("MemAvailable:", root + "/proc/meminfo");
  return kibibytes.has_value() ? *kibibytes * 1024 : kUnlimited;
}

// Pages of files that nobody has read lately go where the limit is near.
int64_t LeftOfGroup(const std::string& directory, const GroupFiles& files) {
  const auto limit = NumberIn(absl::StrCat(directory, "/", files.limit));
  const auto used = NumberIn(absl::StrCat(directory, "/", files.used));
  if (!limit.has_value() || !used.has_value()) return kUnlimited;
  const int64_t reclaimable =
      NumberAfter(files.reclaimable, directory + "/memory.stat").value_or(0);
  return std::max<int64_t>(*limit - std::max<int64_t>(*used - reclaimable, 0), 0);
}

// Of the group and those that it lies in. Inside a container the mount itself may be the group that
// /proc names by its path outside; what is not there is passed over.
int64_t LeftOfGroups(const std::string& mount, std::string group, const GroupFiles& files) {
  int64_t left = LeftOfGroup(mount, files);
  for (; group.size() > 1; group.resize(group.rfind('/')))
    left = std::min(left, LeftOfGroup(mount + group, files));
  return left;
}

}  // namespace

int64_t AvailableHostBytes(const std::string& root) {
  int64_t left = LeftOfMachine(root);
  // Lines of "hierarchy:controllers:/group"; version 2 names no controllers.
  std::ifstream lines(root + "/proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3 || fields[2].empty() || fields[2].front() != '/') continue;
    const bool is_version_2 = fields[1].empty();
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    if (!is_version_2 &&
        std::find(controllers.begin(), controllers.end(), "memory") == controllers.end())
      continue;
    const GroupFiles& files = is_version_2 ? kVersion2 : kVersion1;
    left = std::min(left, LeftOfGroups(root + files.mount, fields[2], files));
  }
  return left;
}

}  // namespace salamander
