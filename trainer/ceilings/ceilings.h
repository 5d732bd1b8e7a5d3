// What the machine can do at most, measured in the same run as what is judged by it.
#ifndef TRAINER_CEILINGS_CEILINGS_H_
#define TRAINER_CEILINGS_CEILINGS_H_

#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/arena.h"
#include "kernels/device.h"

namespace salamander {

struct Ceilings {
  double flops_per_second = 0.0;  // of a large matrix product in the activations' type, random data
  double bytes_per_second = 0.0;  // of a large copy on the device, bytes read plus bytes written
};

// Operations a second of a large matrix product in the activations' type on random data: as large
// as fits the context's arena, which gets its memory back. Fails where that is too little to tell.
absl::StatusOr<double> MeasureProductRate(DeviceSession& session, const ExecutionContext& context);

// Uses both arenas for its own, and leaves them as they were.
absl::StatusOr<Ceilings> MeasureCeilings(DeviceSession& session, Arena& tensors, Arena& scratch);

// The middle one of an odd number of values, the mean of the middle two of an even number.
double Median(std::vector<double> values);

}  // namespace salamander

#endif  // TRAINER_CEILINGS_CEILINGS_H_
