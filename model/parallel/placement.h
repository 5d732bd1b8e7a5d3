// Which ranks of a group share a host or a device, whatever launched them and whichever devices it
// lets each of them see.
#ifndef MODEL_PARALLEL_PLACEMENT_H_
#define MODEL_PARALLEL_PLACEMENT_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "kernels/base/execution_context.h"
#include "model/parallel/communicator.h"

namespace salamander {

// This rank among those that are in the same place.
struct Placement {
  int rank = 0;
  int ranks = 1;
};

// Ranks are in the same place where they give the same text. Collective, as all below.
absl::StatusOr<Placement> PlacementAt(absl::string_view place, Communicator& group);

absl::StatusOr<Placement> PlacementOnHost(Communicator& group);

// Requires: `device` is a CUDA device, on every rank.
absl::StatusOr<Placement> PlacementOnDevice(const Device& device, Communicator& group);

// Whether no two ranks share a device. Requires: as above.
absl::StatusOr<bool> HasOwnDeviceEach(const Device& device, Communicator& group);

}  // namespace salamander

#endif  // MODEL_PARALLEL_PLACEMENT_H_
