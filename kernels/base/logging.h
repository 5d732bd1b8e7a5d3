// Log lines and fatal checks. Every line carries "[stage 2 | step 1200 | rank 5]" from the one
// place where the run says where it is. Logging is the only process-wide state in the tree.
#ifndef KERNELS_BASE_LOGGING_H_
#define KERNELS_BASE_LOGGING_H_

#include <cstdint>
#include <sstream>

#include "absl/strings/string_view.h"

namespace salamander {

// Where the run is. Negative values are left out of the prefix.
struct LogPosition {
  int rank = -1;
  int stage = -1;
  int64_t step = -1;
};

void SetLogPosition(const LogPosition& position);
LogPosition GetLogPosition();

// Lines go to standard error; rank 0 shows info and above, other ranks warnings and above.
void LogInfo(absl::string_view message);
void LogWarning(absl::string_view message);
void LogError(absl::string_view message);

// Prints the message with file, line and rank, then aborts the process (which ends an MPI job).
[[noreturn]] void FatalError(const char* file, int line, absl::string_view message);

namespace logging_internal {

class FatalMessage {
 public:
  FatalMessage(const char* file, int line, const char* condition) : file_(file), line_(line) {
    stream_ << "check failed: " << condition << " ";
  }
  [[noreturn]] ~FatalMessage() { FatalError(file_, line_, stream_.str()); }
  std::ostream& stream() { return stream_; }

 private:
  const char* file_;
  int line_;
  std::ostringstream stream_;
};

}  // namespace logging_internal
}  // namespace salamander

// Programmer errors only; anything a user can cause is an absl::Status.
#define SALAMANDER_CHECK(condition) \
  if (condition) {                  \
  } else /* NOLINT */               \
    ::salamander::logging_internal::FatalMessage(__FILE__, __LINE__, #condition).stream()

#endif  // KERNELS_BASE_LOGGING_H_
