// What an op needs besides its arguments: where it runs and where its scratch memory comes from.
#ifndef KERNELS_BASE_EXECUTION_CONTEXT_H_
#define KERNELS_BASE_EXECUTION_CONTEXT_H_

#include "kernels/base/arena.h"

namespace salamander {

enum class DeviceKind { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
};

struct ExecutionContext {
  Device device;
  void* stream = nullptr;  // cudaStream_t on CUDA, unused on the CPU
  Arena* arena = nullptr;  // scratch; an op returns all it took before it returns
};

}  // namespace salamander

#endif  // KERNELS_BASE_EXECUTION_CONTEXT_H_
