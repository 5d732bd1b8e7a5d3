// A file as bytes at positions, with errors that name it. Reads and writes share no position, so
// that threads may use one file at once.
#ifndef DATA_TOKENS_PLAIN_FILE_H_
#define DATA_TOKENS_PLAIN_FILE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace salamander {

class PlainFile {
 public:
  static absl::StatusOr<PlainFile> OpenForReading(const std::string& path);
  static absl::StatusOr<PlainFile> OpenForWriting(const std::string& path);  // an existing file
  // A file without a name in the folder of `path`: it is gone with the process, however that ends.
  // Errors call it `path`.
  static absl::StatusOr<PlainFile> CreateUnnamed(const std::string& path);

  PlainFile(PlainFile&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  PlainFile& operator=(PlainFile&&) = delete;
  ~PlainFile();

  const std::string& path() const { return path_; }
  absl::StatusOr<int64_t> Size() const;
  absl::Status ReadAt(int64_t position, void* bytes, int64_t count) const;  // all or an error
  absl::Status WriteAt(int64_t position, const void* bytes, int64_t count);

 private:
  PlainFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
};

}  // namespace salamander

#endif  // DATA_TOKENS_PLAIN_FILE_H_
