// How long ranks wait before they take another one for lost, as the environment says.
//
//   SALAMANDER_SILENCE_SECONDS     a rank that is not heard of for so long is lost; 30, 0 for never
//   SALAMANDER_COLLECTIVE_SECONDS  a collective that lasts longer ends the job; 600, 0 for never
#ifndef MODEL_PARALLEL_WATCH_WATCH_LIMITS_H_
#define MODEL_PARALLEL_WATCH_WATCH_LIMITS_H_

#include "absl/status/statusor.h"

namespace salamander {

struct WatchLimits {
  double silence_seconds = 30.0;
  double collective_seconds = 600.0;

  static absl::StatusOr<WatchLimits> FromEnvironment();
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_WATCH_LIMITS_H_
