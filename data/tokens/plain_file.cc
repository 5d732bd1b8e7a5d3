#include "data/tokens/plain_file.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "data/storage/file_bytes.h"

namespace salamander {
namespace {

std::string FolderOf(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? std::string(".") : folder.string();
}

}  // namespace

absl::StatusOr<PlainFile> PlainFile::OpenForReading(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "open", path);
  return PlainFile(path, descriptor);
}

absl::StatusOr<PlainFile> PlainFile::OpenForWriting(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "open for writing", path);
  return PlainFile(path, descriptor);
}

absl::StatusOr<PlainFile> PlainFile::CreateUnnamed(const std::string& path) {
  const std::string folder = FolderOf(path);
  int descriptor = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
    // Network file systems without O_TMPFILE: a name that is removed at once.
    std::string name = folder + "/.tokens-XXXXXX";
    descriptor = mkostemp(name.data(), O_CLOEXEC);
    if (descriptor >= 0) unlink(name.c_str());
  }
  if (descriptor < 0) return ErrnoStatus(errno, "create a temporary file", folder);
  return PlainFile(path, descriptor);
}

PlainFile::~PlainFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<int64_t> PlainFile::Size() const {
  struct stat status = {};
  if (fstat(descriptor_, &status) != 0) return ErrnoStatus(errno, "find the size", path_);
  if (S_ISDIR(status.st_mode)) return ErrnoStatus(EISDIR, "read", path_);
  return static_cast<int64_t>(status.st_size);
}

absl::Status PlainFile::ReadAt(int64_t position, void* bytes, int64_t count) const {
  auto* out = static_cast<char*>(bytes);
  while (count > 0) {
    const ssize_t done = pread(descriptor_, out, static_cast<size_t>(count), position);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return ErrnoStatus(errno, "read", path_);
    if (done == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": ends at byte ", position, ", ", count,
                                              " bytes early: the file was cut short"));
    }
    out += done;
    position += done;
    count -= done;
  }
  return absl::OkStatus();
}

absl::Status PlainFile::WriteAt(int64_t position, const void* bytes, int64_t count) {
  const auto* in = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t done = pwrite(descriptor_, in, static_cast<size_t>(count), position);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return ErrnoStatus(errno, "write", path_);
    in += done;
    position += done;
    count -= done;
  }
  return absl::OkStatus();
}

}  // namespace salamander
