// A communicator whose tensors lie on a device and travel by way of the host: piece by piece down,
// through another communicator, and up again. For devices that cannot reach each other.
#ifndef MODEL_PARALLEL_STAGED_COMMUNICATOR_H_
#define MODEL_PARALLEL_STAGED_COMMUNICATOR_H_

#include <cstdint>
#include <memory>

#include "kernels/base/execution_context.h"
#include "model/parallel/communicator.h"

namespace salamander {

// Tensors lie on `execution`'s device, whose stream outlives the communicator; texts and numbers on
// the host. A collective of a tensor waits for that stream, and takes `piece_bytes` of the host's
// memory at most.
std::unique_ptr<Communicator> StagedCommunicator(std::unique_ptr<Communicator> host,
                                                 const ExecutionContext& execution,
                                                 int64_t piece_bytes = int64_t{64} << 20);

}  // namespace salamander

#endif  // MODEL_PARALLEL_STAGED_COMMUNICATOR_H_
