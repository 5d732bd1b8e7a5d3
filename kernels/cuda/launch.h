// How an op starts a kernel: by name, shape and arguments, through the runtime's queue.
#ifndef KERNELS_CUDA_LAUNCH_H_
#define KERNELS_CUDA_LAUNCH_H_

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/cuda/queue/queue.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {

struct LaunchShape {
  Grid grid;
  dim3 block;
  int64_t shared_bytes = 0;  // dynamic, beside what the kernel declares
};

// Enqueues a kernel on the context's stream; a grid of no blocks is nothing to do. Fails where the
// device has no such grid or not so much shared memory. A fault inside the kernel shows at the next
// wait.
template <typename... Parameters>
absl::Status Launch(const ExecutionContext& context, const char* name,
                    void (*kernel)(Parameters...), const LaunchShape& shape,
                    std::type_identity_t<Parameters>... arguments) {
  void* addresses[] = {&arguments...};
  const int64_t sizes[] = {static_cast<int64_t>(sizeof(Parameters))...};
  return context.cuda->Launch({.name = name,
                               .kernel = reinterpret_cast<const void*>(kernel),
                               .grid = shape.grid,
                               .block = shape.block,
                               .shared_bytes = shape.shared_bytes,
                               .arguments = absl::MakeSpan(addresses),
                               .sizes = absl::MakeConstSpan(sizes)});
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LAUNCH_H_
