#include "model/parallel/device_communicator.h"

#include <cstdlib>
#include <utility>

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "model/parallel/placement.h"
#include "model/parallel/staged_communicator.h"
#ifdef SALAMANDER_HAS_NCCL
#include "model/parallel/nccl_communicator.h"
#endif

namespace salamander {
namespace {

#ifdef SALAMANDER_HAS_NCCL
// The job cannot go on, and its main thread may be waiting in the collective for ever: mpirun ends
// the other ranks when this one is gone.
void EndProcess(const absl::Status& status) {
  LogError(status.message());
  std::_Exit(1);
}
#endif

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> DeviceCommunicator(
    std::unique_ptr<Communicator> host, const ExecutionContext& execution) {
  if (host->size() == 1) return SingleRankCommunicator(host->name(), execution);
  if (execution.device.kind == DeviceKind::kCpu) return host;
#ifdef SALAMANDER_HAS_NCCL
  ASSIGN_OR_RETURN(const bool has_own_device, HasOwnDeviceEach(execution.device, *host));
  if (has_own_device) {
    return NcclCommunicator(std::move(host), {.execution = execution, .on_failure = EndProcess});
  }
#endif
  LogInfo("ranks share a GPU, or NCCL was not there to build with: tensors travel by the host");
  return StagedCommunicator(std::move(host), execution);
}

}  // namespace salamander
