#include "trainer/run/step_arena.h"

#include <cstdint>

#include <unistd.h>

namespace salamander {

absl::StatusOr<Arena> ReserveStepArena() {
  return Arena::Reserve(static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) *
                        static_cast<int64_t>(sysconf(_SC_PAGESIZE)));
}

}  // namespace salamander
