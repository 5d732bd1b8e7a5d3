#include "kernels/cuda/stream.h"

#include <cuda_runtime.h>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/queue/status.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {

CUstream_st* StreamOf(const ExecutionContext& context) {
  return context.cuda->stream();
}

StreamMarks::~StreamMarks() {
  for (const cudaEvent_t mark : ahead_) cudaEventDestroy(mark);
  for (const cudaEvent_t mark : spare_) cudaEventDestroy(mark);
}

absl::Status StreamMarks::Enqueue() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (spare_.empty()) {
    cudaEvent_t made = nullptr;
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
    spare_.push_back(made);
  }
  RETURN_IF_CUDA_ERROR(cudaEventRecord(spare_.back(), StreamOf(context_)));
  ahead_.push_back(spare_.back());
  spare_.pop_back();
  return absl::OkStatus();
}

absl::StatusOr<int64_t> StreamMarks::Passed() {
  // A thread that never said so is on device 0, and its first call would open a context there.
  RETURN_IF_CUDA_ERROR(cudaSetDevice(context_.device.index));
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!ahead_.empty()) {
    const cudaError_t state = cudaEventQuery(ahead_.front());
    if (state == cudaErrorNotReady) {
      cudaGetLastError();  // an answer and no error, though the runtime records it as one
      break;
    }
    if (state != cudaSuccess) return CudaFailure(state, "cudaEventQuery", __FILE__, __LINE__);
    spare_.push_back(ahead_.front());
    ahead_.pop_front();
    ++passed_;
  }
  return passed_;
}

}  // namespace salamander::cuda
