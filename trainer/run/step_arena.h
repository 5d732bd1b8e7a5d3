// The arena that a command's passes run in.
#ifndef TRAINER_RUN_STEP_ARENA_H_
#define TRAINER_RUN_STEP_ARENA_H_

#include "absl/status/statusor.h"

#include "kernels/base/arena.h"

namespace salamander {

// Address space for as much as the machine has: pages cost nothing until a pass touches them.
absl::StatusOr<Arena> ReserveStepArena();

}  // namespace salamander

#endif  // TRAINER_RUN_STEP_ARENA_H_
