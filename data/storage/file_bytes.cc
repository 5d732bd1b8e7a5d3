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
  explicit Descriptor(const std::string& path) : value_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int value() const { return value_; }

 private:
  int value_;
};

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
  const Descriptor file(path);
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
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  RETURN_IF_ERROR(file.Write(bytes.data(), bytes.size()));
  return file.Close();
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) return ErrnoStatus(errno, "create", path);
  return OutputFile(path, descriptor);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status OutputFile::Write(const void* bytes, size_t count) {
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = write(descriptor_, next, count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write", path_);
    next += written;
    count -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::StatusOr<OutputFile> OutputFile::Open(const std::string& path) {
  const int descriptor = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "open", path);
  return OutputFile(path, descriptor);
}

absl::Status OutputFile::WriteAt(int64_t offset, const void* bytes, size_t count) {
  const char* next = static_cast<const char*>(bytes);
  for (size_t done = 0; done < count;) {
    const ssize_t written = pwrite(descriptor_, next + done, count - done,
                                   static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write", path_);
    done += static_cast<size_t>(written);
  }
  // A hint: Close is what makes sure.
  sync_file_range(descriptor_, offset, static_cast<off_t>(count), SYNC_FILE_RANGE_WRITE);
  return absl::OkStatus();
}

absl::Status OutputFile::Close() {
  if (fsync(descriptor_) != 0) return ErrnoStatus(errno, "sync", path_);
  // A network file system may report a full disk only here.
  if (close(std::exchange(descriptor_, -1)) != 0) return ErrnoStatus(errno, "close", path_);
  return absl::OkStatus();
}

absl::StatusOr<InputFile> InputFile::Open(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "open", path);
  return InputFile(path, descriptor);
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status InputFile::ReadAt(int64_t offset, void* bytes, size_t count) const {
  char* next = static_cast<char*>(bytes);
  while (count > 0) {
    const ssize_t got = pread(descriptor_, next, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "read", path_);
    if (got == 0) return absl::DataLossError(absl::StrCat(path_, ": ends at byte ", offset));
    next += got;
    offset += got;
    count -= static_cast<size_t>(got);
  }
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
  const Descriptor file(path);
  if (file.value() < 0) return ErrnoStatus(errno, "open to sync", path);
  // A file system that cannot sync a directory says EINVAL; its renames are then as safe as it
  // makes them.
  if (fsync(file.value()) != 0 && errno != EINVAL) return ErrnoStatus(errno, "sync", path);
  return absl::OkStatus();
}

}  // namespace salamander
