// What every fuzz target shares. A target is one LLVMFuzzerTestOneInput over the bytes a user may
// hand to a reader; whatever they are, the reader answers with a status. libFuzzer drives it in a
// build with SALAMANDER_BUILD_FUZZERS, replay_main.cc over the kept corpus in any build.
#ifndef TESTS_FUZZ_FUZZ_TARGET_H_
#define TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "kernels/base/logging.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace salamander {

inline absl::string_view TextOf(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A refusal says where and why; it is the environment's fault or the input's, never "unknown".
inline void CheckRefusal(const absl::Status& status) {
  SALAMANDER_CHECK(!status.message().empty()) << "a refusal without a message";
  SALAMANDER_CHECK(status.code() != absl::StatusCode::kUnknown &&
                   status.code() != absl::StatusCode::kInternal)
      << status.ToString();
}

}  // namespace salamander

#endif  // TESTS_FUZZ_FUZZ_TARGET_H_
