#include "absl/strings/str_cat.h"

#include "kernels/cuda/architectures.h"
#include "kernels/cuda/queue/status.h"

namespace salamander::cuda {
namespace {

__global__ void ProbeKernel() {}

}  // namespace

absl::Status CheckArchitecture(const cudaDeviceProp& properties) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, ProbeKernel);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();
    return absl::FailedPreconditionError(absl::StrCat(
        properties.name, " has compute capability ", properties.major, ".", properties.minor,
        " and this program was built for " SALAMANDER_CUDA_ARCHITECTURES
        "; build it with -DSALAMANDER_CUDA_ARCHITECTURES=",
        properties.major, properties.minor, "-real, or use device: cpu"));
  }
  RETURN_IF_CUDA_ERROR(error);
  return absl::OkStatus();
}

}  // namespace salamander::cuda
