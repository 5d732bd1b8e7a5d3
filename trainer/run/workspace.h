// Where a command runs its models: the device that the process opened, a context for its ops, and
// the arena that passes take their memory from.
#ifndef TRAINER_RUN_WORKSPACE_H_
#define TRAINER_RUN_WORKSPACE_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "kernels/device.h"
#include "model/parallel/communicator.h"
#include "trainer/config/device_choice.h"

namespace salamander {

// Ranks of a host take in turn the CUDA devices that they see, and share them where there are more
// ranks.
Device DeviceFor(DeviceChoice choice, int rank_on_host, int cuda_devices);

// Opens this rank's device; a process does so once. Collective: fails on every rank where one has
// no such device, or where some would run on CUDA and some on the CPU.
absl::StatusOr<std::unique_ptr<DeviceSession>> OpenDevice(DeviceChoice choice, Communicator& world,
                                                          const DeviceOptions& options = {});

// What a rank may take of a CUDA device's free memory: an even share, less what libraries take
// beside it. May be negative.
absl::StatusOr<int64_t> ShareOfDevice(DeviceSession& session);

class Workspace {
 public:
  // The session outlives the workspace.
  explicit Workspace(DeviceSession& session)
      : session_(session), execution_(session.Context(arena_)) {}
  Workspace(const Workspace&) = delete;  // the context refers to the arena
  Workspace& operator=(const Workspace&) = delete;

  DeviceSession& session() const { return session_; }
  const ExecutionContext& execution() const { return execution_; }

  // Before the first pass, and after all else that the device is to hold: on CUDA the arena takes
  // what is left of its memory, shared evenly by the ranks on it. On the CPU it takes address space
  // for as much as the machine has: pages cost nothing until a pass touches them. Collective.
  absl::Status ReserveArena(Communicator& world);

  // Gives the arena's memory back, for what else changes its size. Requires: nothing is in it.
  void ReleaseArena();

 private:
  DeviceSession& session_;
  Arena arena_ = Arena::Adopt(nullptr, 0, nullptr);
  ExecutionContext execution_;
};

}  // namespace salamander

#endif  // TRAINER_RUN_WORKSPACE_H_
