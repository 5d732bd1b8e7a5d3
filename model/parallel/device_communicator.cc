#include "model/parallel/device_communicator.h"

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "model/parallel/placement.h"
#include "model/parallel/staged_communicator.h"
#include "model/parallel/watch/watch_limits.h"
#ifdef SALAMANDER_HAS_NCCL
#include "model/parallel/nccl_communicator.h"
#endif

namespace salamander {
namespace {

#ifdef SALAMANDER_HAS_NCCL
// For the ranks' watch to name the rank that this one waits for, which the collective cannot.
constexpr std::chrono::seconds kTimeForVerdict{3};

// The job cannot go on, and its main thread may be waiting in the collective for ever: mpirun ends
// the other ranks when this one is gone.
void EndProcess(const absl::Status& status) {
  LogError(status.message());
  std::this_thread::sleep_for(kTimeForVerdict);
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
    ASSIGN_OR_RETURN(const WatchLimits limits, WatchLimits::FromEnvironment());
    return NcclCommunicator(std::move(host), {.execution = execution,
                                              .timeout_seconds = limits.collective_seconds,
                                              .on_failure = EndProcess});
  }
#endif
  LogInfo("ranks share a GPU, or NCCL was not there to build with: tensors travel by the host");
  return StagedCommunicator(std::move(host), execution);
}

}  // namespace salamander
