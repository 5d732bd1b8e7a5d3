#include "model/parallel/watch/watch_limits.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// Below that a rank would be lost by a few late messages.
constexpr double kLeastSilence = 5.0;
// What is known of a rank is up to a beat old.
constexpr double kLeastCollective = 3.0;

absl::StatusOr<double> SecondsFrom(const char* variable, double otherwise, double at_least) {
  const char* const text = std::getenv(variable);
  if (text == nullptr) return otherwise;
  double seconds = -1.0;
  if (absl::SimpleAtod(text, &seconds) && (seconds == 0.0 || seconds >= at_least)) return seconds;
  return absl::InvalidArgumentError(absl::StrCat(variable, ": found '", text, "', expected ",
                                                 at_least, " seconds or more, or 0 for no limit"));
}

}  // namespace

absl::StatusOr<WatchLimits> WatchLimits::FromEnvironment() {
  WatchLimits limits;
  ASSIGN_OR_RETURN(limits.silence_seconds, SecondsFrom("SALAMANDER_SILENCE_SECONDS",
                                                       limits.silence_seconds, kLeastSilence));
  ASSIGN_OR_RETURN(
      limits.collective_seconds,
      SecondsFrom("SALAMANDER_COLLECTIVE_SECONDS", limits.collective_seconds, kLeastCollective));
  return limits;
}

}  // namespace salamander
