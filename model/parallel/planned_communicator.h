// A rank's place in a group that is not there: for finding out what the passes of a rank need of
// the device before they run (DeviceSession::Plan).
#ifndef MODEL_PARALLEL_PLANNED_COMMUNICATOR_H_
#define MODEL_PARALLEL_PLANNED_COMMUNICATOR_H_

#include <memory>

#include "model/parallel/communicator.h"

namespace salamander {

// Its collectives check shapes and count traffic as all do, touch no tensor and wait for nobody.
// The other ranks' numbers and texts are what this one gives. It does not split.
std::unique_ptr<Communicator> PlannedCommunicator(absl::string_view name, int rank, int size);

}  // namespace salamander

#endif  // MODEL_PARALLEL_PLANNED_COMMUNICATOR_H_
