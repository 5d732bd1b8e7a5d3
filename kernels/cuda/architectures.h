// Whether this build holds code that a device can run.
#ifndef KERNELS_CUDA_ARCHITECTURES_H_
#define KERNELS_CUDA_ARCHITECTURES_H_

#include <cuda_runtime.h>

#include "absl/status/status.h"

namespace salamander::cuda {

// Of the current device. Fails naming what the build is for and what to build it with.
absl::Status CheckArchitecture(const cudaDeviceProp& properties);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ARCHITECTURES_H_
