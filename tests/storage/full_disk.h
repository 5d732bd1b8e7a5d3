// A full disk without a mount: a limit on the size of any file this process writes, under which
// the system answers EFBIG where a full disk answers ENOSPC.
#ifndef TESTS_STORAGE_FULL_DISK_H_
#define TESTS_STORAGE_FULL_DISK_H_

#include <csignal>

#include <sys/resource.h>

#include "kernels/base/logging.h"

namespace salamander {

class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    SALAMANDER_CHECK(getrlimit(RLIMIT_FSIZE, &old_limit_) == 0);
    const rlimit limit = {bytes, old_limit_.rlim_max};
    SALAMANDER_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*old_handler_)(int);
  rlimit old_limit_ = {};
};

}  // namespace salamander

#endif  // TESTS_STORAGE_FULL_DISK_H_
