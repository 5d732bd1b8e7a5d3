// How much more memory the programs of a host may take.
#ifndef TRAINER_RUN_HOST_MEMORY_H_
#define TRAINER_RUN_HOST_MEMORY_H_

#include <cstdint>
#include <string>

namespace salamander {

// By the kernel's own estimate for the machine, or less where a control group that holds this
// process, as a container or a batch system's job does, has less left of its limit. The largest
// number where neither is known. `root` is what /proc and /sys lie in.
int64_t AvailableHostBytes(const std::string& root = "");

}  // namespace salamander

#endif  // TRAINER_RUN_HOST_MEMORY_H_
