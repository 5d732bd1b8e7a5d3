// What an op needs besides its arguments: where it runs and where its scratch memory comes from.
#ifndef KERNELS_BASE_EXECUTION_CONTEXT_H_
#define KERNELS_BASE_EXECUTION_CONTEXT_H_

#include "kernels/base/arena.h"

namespace salamander {

namespace cuda {
class Runtime;
}

enum class DeviceKind { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;  // among the CUDA devices that the process sees

  bool operator==(const Device&) const = default;
};

struct ExecutionContext {
  Device device;
  Arena* arena = nullptr;         // scratch; an op returns all it took before it returns
  cuda::Runtime* cuda = nullptr;  // stream and library handles of a CUDA device; null on the CPU
  // Ops leave faster ways alone whose bits differ from run to run. On the CPU there are none.
  bool is_deterministic = false;
};

}  // namespace salamander

#endif  // KERNELS_BASE_EXECUTION_CONTEXT_H_
