// The communicator that tensors of a device travel by.
#ifndef MODEL_PARALLEL_DEVICE_COMMUNICATOR_H_
#define MODEL_PARALLEL_DEVICE_COMMUNICATOR_H_

#include <memory>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "model/parallel/communicator.h"

namespace salamander {

// Wraps `host`, a communicator of host memory, for tensors of the execution's device. One rank
// alone has nothing to send; on the CPU it is `host` itself; NCCL where every rank has a GPU of its
// own; else by way of the host (staged_communicator.h). Collective, and every rank comes to the
// same choice.
absl::StatusOr<std::unique_ptr<Communicator>> DeviceCommunicator(std::unique_ptr<Communicator> host,
                                                                 const ExecutionContext& execution);

}  // namespace salamander

#endif  // MODEL_PARALLEL_DEVICE_COMMUNICATOR_H_
