// Whole small files as bytes, and the words for what the system said about a path.
#ifndef DATA_STORAGE_FILE_BYTES_H_
#define DATA_STORAGE_FILE_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace salamander {

// "PATH: cannot OPERATION: REASON" with what to do about it, from an errno value; the code is
// NotFound, PermissionDenied, ResourceExhausted (full disk, quota, size limit) or Unavailable.
absl::Status ErrnoStatus(int error_number, absl::string_view operation, absl::string_view path);

// Refuses a file of more than `max_bytes` before reading it.
absl::StatusOr<std::string> ReadFileBytes(const std::string& path, int64_t max_bytes);

// Writes the file under its final name and syncs it: for files inside an AtomicDirectory. To
// replace a file in place use WriteFileAtomically of atomic_path.h.
absl::Status WriteFileBytes(const std::string& path, absl::string_view bytes);

absl::StatusOr<int64_t> FileSize(const std::string& path);

// A new file written piece by piece, for sizes that do not fit in memory. Close syncs it.
class OutputFile {
 public:
  // Replaces an existing file: for temporary names and files inside an AtomicDirectory.
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  // A file that is there, to be written in places.
  static absl::StatusOr<OutputFile> Open(const std::string& path);

  absl::Status Write(const void* bytes, size_t count);
  // The same at a place, and has the disk begin with it.
  absl::Status WriteAt(int64_t offset, const void* bytes, size_t count);
  absl::Status Close();  // a writer that skips it does not learn of a full disk

 private:
  OutputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
};

// A file read from any place.
class InputFile {
 public:
  static absl::StatusOr<InputFile> Open(const std::string& path);

  InputFile(InputFile&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  InputFile& operator=(InputFile&&) = delete;
  ~InputFile();

  const std::string& path() const { return path_; }

  // Fails where the file ends before.
  absl::Status ReadAt(int64_t offset, void* bytes, size_t count) const;

 private:
  InputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
};

// Makes what was written under `path` (a file or a directory's own entries) survive a power cut.
absl::Status SyncPath(const std::string& path);

}  // namespace salamander

#endif  // DATA_STORAGE_FILE_BYTES_H_
