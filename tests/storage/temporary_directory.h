// A fresh directory that is removed with everything in it at the end of the test.
#ifndef TESTS_STORAGE_TEMPORARY_DIRECTORY_H_
#define TESTS_STORAGE_TEMPORARY_DIRECTORY_H_

#include <cstdlib>
#include <filesystem>
#include <string>

#include "kernels/base/logging.h"

namespace salamander {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "salamander_test_XXXXXX").string();
    SALAMANDER_CHECK(mkdtemp(pattern.data()) != nullptr) << pattern;
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  // Names inside, hidden ones too.
  size_t entry_count() const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      count += entry.path().empty() ? 0 : 1;
    }
    return count;
  }

 private:
  std::string path_;
};

}  // namespace salamander

#endif  // TESTS_STORAGE_TEMPORARY_DIRECTORY_H_
