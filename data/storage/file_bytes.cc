#include "data/storage/file_bytes.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : value_(open(path.c_str(), flags, 0666)) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int value() const { return value_; }
  // The close that can still report an error of a network file system.
  int Close() {
    const int result = close(value_);
    value_ = -1;
    return result;
  }

 private:
  int value_;
};

absl::Status WriteAll(int descriptor, absl::string_view bytes, const std::string& path) {
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t count = write(descriptor, bytes.data() + written, bytes.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "write", path);
    written += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrnoStatus(int error_number, absl::string_view operation, absl::string_view path) {
  const std::string text =
      absl::StrCat(path, ": cannot ", operation, ": ", std::strerror(error_number));
  switch (error_number) {
    case ENOENT:
      return absl::NotFoundError(absl::StrCat(text, "; check the path"));
    case EEXIST:
    case ENOTEMPTY:
      return absl::AlreadyExistsError(absl::StrCat(text, "; choose another name or remove it"));
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(
          absl::StrCat(text, "; choose a place that this user may use"));
    case ENOTDIR:
      return absl::FailedPreconditionError(
          absl::StrCat(text, "; a parent of this path is a file, choose another path"));
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(
          absl::StrCat(text, "; free space (or raise the limit) and run again"));
    default:
      return absl::UnavailableError(text);
  }
}

absl::StatusOr<std::string> ReadFileBytes(const std::string& path, int64_t max_bytes) {
  ASSIGN_OR_RETURN(const int64_t size, FileSize(path));
  if (size > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": has ", size, " bytes, expected at most ", max_bytes, "; is this the right file?"));
  }
  const Descriptor file(path, O_RDONLY | O_CLOEXEC);
  if (file.value() < 0) return ErrnoStatus(errno, "open for reading", path);
  std::string bytes(static_cast<size_t>(size), '\0');
  size_t count = 0;
  while (count < bytes.size()) {
    const ssize_t got = read(file.value(), bytes.data() + count, bytes.size() - count);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "read", path);
    if (got == 0) break;
    count += static_cast<size_t>(got);
  }
  if (count != bytes.size()) {
    return absl::DataLossError(absl::StrCat(path, ": became shorter while being read, ", count,
                                            " of ", size, " bytes; is something writing to it?"));
  }
  return bytes;
}

absl::Status WriteFileBytes(const std::string& path, absl::string_view bytes) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
  if (file.value() < 0) return ErrnoStatus(errno, "create", path);
  RETURN_IF_ERROR(WriteAll(file.value(), bytes, path));
  if (fsync(file.value()) != 0) return ErrnoStatus(errno, "sync", path);
  if (file.Close() != 0) return ErrnoStatus(errno, "close", path);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FileSize(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return ErrnoStatus(errno, "open", path);
  if (!S_ISREG(status.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": is ", S_ISDIR(status.st_mode) ? "a directory" : "not a plain file",
                     ", expected a plain file; check the path"));
  }
  return static_cast<int64_t>(status.st_size);
}

absl::Status SyncPath(const std::string& path) {
  Descriptor file(path, O_RDONLY | O_CLOEXEC);
  if (file.value() < 0) return ErrnoStatus(errno, "open to sync", path);
  // A file system that cannot sync a directory says EINVAL; its renames are then as safe as it
  // makes them.
  if (fsync(file.value()) != 0 && errno != EINVAL) return ErrnoStatus(errno, "sync", path);
  if (file.Close() != 0) return ErrnoStatus(errno, "close", path);
  return absl::OkStatus();
}

}  // namespace salamander
