#include "data/storage/atomic_path.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

namespace fs = std::filesystem;

constexpr char kMarker[] = ".partial-";

// Field 22 of /proc/PID/stat: when the process started, in clock ticks since boot. A process id is
// reused, the pair is not. 0 where there is no such process.
int64_t StartTicks(int64_t process) {
  std::ifstream stream(absl::StrCat("/proc/", process, "/stat"));
  std::string text;
  if (!std::getline(stream, text)) return 0;
  const size_t name_end = text.rfind(')');  // the name may hold spaces and parentheses
  if (name_end == std::string::npos) return 0;
  const std::vector<std::string> fields =
      absl::StrSplit(text.substr(name_end + 1), ' ', absl::SkipEmpty());
  int64_t ticks = 0;
  constexpr size_t kStartField = 19;  // the 22nd of the line, the 20th after the name
  if (fields.size() <= kStartField || !absl::SimpleAtoi(fields[kStartField], &ticks)) return 0;
  return ticks;
}

// '-' separates the parts of a temporary name.
std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  std::string host(name);
  std::replace(host.begin(), host.end(), '-', '_');
  std::replace(host.begin(), host.end(), '/', '_');
  return host;
}

// "dir/" names the same thing as "dir", and only the latter has a file name.
fs::path WithoutTrailingSlash(const std::string& path) {
  const fs::path parsed(path);
  return parsed.has_filename() ? parsed : parsed.parent_path();
}

fs::path ParentOf(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

std::string TemporaryPath(const fs::path& final_path) {
  // Two writers of one process that want the same name must not share a temporary.
  static std::atomic<int> sequence{0};
  return (ParentOf(final_path) / absl::StrCat(".", final_path.filename().string(), kMarker,
                                              HostName(), "-", getpid(), "-", StartTicks(getpid()),
                                              "-", sequence++))
      .string();
}

bool IsDeadWriters(const std::string& name, size_t marker) {
  const std::vector<std::string> parts =
      absl::StrSplit(name.substr(marker + sizeof(kMarker) - 1), '-');
  int64_t process = 0;
  int64_t start = 0;
  if (parts.size() != 4 || parts[0] != HostName() || !absl::SimpleAtoi(parts[1], &process) ||
      !absl::SimpleAtoi(parts[2], &start)) {
    return false;
  }
  return StartTicks(process) != start;
}

absl::Status FromErrorCode(const std::error_code& error, absl::string_view operation,
                           const fs::path& path) {
  return ErrnoStatus(error.value(), operation, path.string());
}

absl::Status SyncTree(const std::string& directory) {
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (entry->is_symlink()) continue;
    RETURN_IF_ERROR(SyncPath(entry->path().string()));
  }
  if (error) return FromErrorCode(error, "list", directory);
  return SyncPath(directory);
}

// Best effort of a destructor: the error that led here is the one that is reported.
void RemoveQuietly(const std::string& path) {
  if (path.empty()) return;
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace

AtomicFile::AtomicFile(std::string final_path, std::string temporary_path)
    : final_path_(std::move(final_path)), temporary_path_(std::move(temporary_path)) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : final_path_(std::move(other.final_path_)),
      temporary_path_(std::exchange(other.temporary_path_, {})) {}

AtomicFile::~AtomicFile() {
  RemoveQuietly(temporary_path_);
}

absl::StatusOr<AtomicFile> AtomicFile::Begin(const std::string& final_path) {
  std::error_code error;
  if (fs::is_directory(final_path, error)) return ErrnoStatus(EISDIR, "write a file", final_path);
  const std::string temporary = TemporaryPath(final_path);
  const int descriptor =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor < 0) return ErrnoStatus(errno, "create", final_path);
  close(descriptor);
  return AtomicFile(final_path, temporary);
}

absl::Status AtomicFile::Commit() {
  SALAMANDER_CHECK(!temporary_path_.empty()) << final_path_ << " was committed before";
  RETURN_IF_ERROR(SyncPath(temporary_path_));
  if (rename(temporary_path_.c_str(), final_path_.c_str()) != 0) {
    return ErrnoStatus(errno, "rename the finished file", final_path_);
  }
  temporary_path_.clear();
  return SyncPath(ParentOf(final_path_).string());
}

AtomicDirectory::AtomicDirectory(std::string final_path, std::string temporary_path)
    : final_path_(std::move(final_path)), temporary_path_(std::move(temporary_path)) {}

AtomicDirectory::AtomicDirectory(AtomicDirectory&& other) noexcept
    : final_path_(std::move(other.final_path_)),
      temporary_path_(std::exchange(other.temporary_path_, {})) {}

AtomicDirectory::~AtomicDirectory() {
  RemoveQuietly(temporary_path_);
}

absl::StatusOr<AtomicDirectory> AtomicDirectory::Begin(const std::string& final_path) {
  const fs::path path = WithoutTrailingSlash(final_path);
  std::error_code error;
  if (fs::symlink_status(path, error).type() != fs::file_type::not_found && !error) {
    return ErrnoStatus(EEXIST, "create", path.string());
  }
  const std::string temporary = TemporaryPath(path);
  if (!fs::create_directory(temporary, error)) {
    return error ? FromErrorCode(error, "create", path) : ErrnoStatus(EEXIST, "create", temporary);
  }
  return AtomicDirectory(path.string(), temporary);
}

absl::Status AtomicDirectory::Commit() {
  SALAMANDER_CHECK(!temporary_path_.empty()) << final_path_ << " was committed before";
  RETURN_IF_ERROR(SyncTree(temporary_path_));
  int result =
      renameat2(AT_FDCWD, temporary_path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_NOREPLACE);
  if (result != 0 && errno == EINVAL) {
    // The file system has no exclusive rename; the plain one still refuses all but an empty
    // directory.
    result = rename(temporary_path_.c_str(), final_path_.c_str());
  }
  if (result != 0) return ErrnoStatus(errno, "rename the finished directory", final_path_);
  temporary_path_.clear();
  return SyncPath(ParentOf(final_path_).string());
}

absl::Status WithFinalName(const absl::Status& status, const std::string& temporary_path,
                           const std::string& final_path) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrReplaceAll(status.message(), {{temporary_path, final_path}}));
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes) {
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Begin(path));
  RETURN_IF_ERROR(
      WithFinalName(WriteFileBytes(file.temporary_path(), bytes), file.temporary_path(), path));
  return file.Commit();
}

absl::StatusOr<int> RemoveLeftovers(const std::string& directory, Leftovers which) {
  std::error_code error;
  if (!fs::exists(directory, error)) return 0;
  std::vector<fs::path> leftovers;
  fs::directory_iterator entry(directory, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const size_t marker = name.rfind(kMarker);
    if (!absl::StartsWith(name, ".") || marker == std::string::npos) continue;
    if (which == Leftovers::kAll || IsDeadWriters(name, marker)) leftovers.push_back(entry->path());
  }
  if (error) return FromErrorCode(error, "list", directory);
  for (const fs::path& path : leftovers) {
    fs::remove_all(path, error);
    if (error) return FromErrorCode(error, "remove the leftover", path);
  }
  return static_cast<int>(leftovers.size());
}

absl::Status CreateDirectories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return FromErrorCode(error, "create the directory", path);
  if (!fs::is_directory(path, error)) return ErrnoStatus(ENOTDIR, "create the directory", path);
  return absl::OkStatus();
}

absl::Status RemoveDirectoryAtomically(const std::string& path) {
  const fs::path directory = WithoutTrailingSlash(path);
  const std::string temporary = TemporaryPath(directory);
  if (rename(directory.c_str(), temporary.c_str()) != 0) {
    return ErrnoStatus(errno, "remove", path);
  }
  std::error_code error;
  fs::remove_all(temporary, error);
  if (error) return FromErrorCode(error, "remove", temporary);
  return absl::OkStatus();
}

}  // namespace salamander
