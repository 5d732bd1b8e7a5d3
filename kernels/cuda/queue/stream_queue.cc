#include "kernels/cuda/queue/stream_queue.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/queue/status.h"

namespace salamander::cuda {

absl::StatusOr<std::unique_ptr<StreamQueue>> StreamQueue::Create(cudaStream_t stream) {
  ASSIGN_OR_RETURN(std::unique_ptr<StagingRing> staging, StagingRing::Create(stream));
  return std::unique_ptr<StreamQueue>(new StreamQueue(stream, std::move(staging)));
}

absl::Status StreamQueue::Launch(const KernelLaunch& launch) {
  const cudaError_t error =
      cudaLaunchKernel(launch.kernel, Dimensions(launch.grid), launch.block,
                       launch.arguments.data(), static_cast<size_t>(launch.shared_bytes), stream_);
  return error == cudaSuccess ? absl::OkStatus()
                              : CudaFailure(error, launch.name, __FILE__, __LINE__);
}

absl::Status StreamQueue::Fill(void* destination, int byte, int64_t bytes) {
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(destination, byte, static_cast<size_t>(bytes), stream_));
  return absl::OkStatus();
}

absl::Status StreamQueue::Copy(const void* source, void* destination, int64_t bytes) {
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes),
                                       cudaMemcpyDeviceToDevice, stream_));
  return absl::OkStatus();
}

absl::Status StreamQueue::Download(const void* source, void* host, int64_t bytes) {
  RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(host, source, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_));
  return absl::OkStatus();
}

}  // namespace salamander::cuda
