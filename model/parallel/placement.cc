#include "model/parallel/placement.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include <unistd.h>

#include "kernels/base/status_macros.h"
#include "kernels/device.h"

namespace salamander {

absl::StatusOr<Placement> PlacementAt(absl::string_view place, Communicator& group) {
  ASSIGN_OR_RETURN(const std::vector<std::string> places, group.AllGather(place));
  const auto self = places.begin() + group.rank();
  return Placement{.rank = static_cast<int>(std::count(places.begin(), self, *self)),
                   .ranks = static_cast<int>(std::count(places.begin(), places.end(), *self))};
}

absl::StatusOr<Placement> PlacementOnHost(Communicator& group) {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return PlacementAt(name, group);
}

absl::StatusOr<Placement> PlacementOnDevice(const Device& device, Communicator& group) {
  const auto identity = DeviceIdentity(device);
  RETURN_IF_ERROR(AgreeOnStatus(group, identity.status()));
  return PlacementAt(*identity, group);
}

absl::StatusOr<bool> HasOwnDeviceEach(const Device& device, Communicator& group) {
  ASSIGN_OR_RETURN(const Placement placement, PlacementOnDevice(device, group));
  std::array<int64_t, 1> most = {placement.ranks};
  RETURN_IF_ERROR(group.AllReduceMax(absl::MakeSpan(most)));
  return most[0] == 1;
}

}  // namespace salamander
