// The NCCL side of Communicator: tensors of CUDA devices go over NVLink or the network without
// passing through the host; texts and single numbers go by the host's communicator.
#ifndef MODEL_PARALLEL_NCCL_COMMUNICATOR_H_
#define MODEL_PARALLEL_NCCL_COMMUNICATOR_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "model/parallel/communicator.h"

namespace salamander {

struct NcclOptions {
  ExecutionContext execution;    // collectives are enqueued on its stream
  double setup_seconds = 300;    // for all ranks to join
  double timeout_seconds = 600;  // for a collective, with its connections, to end; 0: no limit
  // Called once, from a thread of the communicator's own, when a collective failed or did not end
  // in time: NCCL's kernels never give up by themselves. The status names rank and operation.
  // Expected to end the job.
  std::function<void(const absl::Status&)> on_failure;
};

// Collective over `host`'s ranks. Requires: every rank has a device of its own, for NCCL refuses
// two on one (model/parallel/placement.h tells). What has not ended when it is destroyed is given
// up.
absl::StatusOr<std::unique_ptr<Communicator>> NcclCommunicator(std::unique_ptr<Communicator> host,
                                                               const NcclOptions& options);

}  // namespace salamander

#endif  // MODEL_PARALLEL_NCCL_COMMUNICATOR_H_
