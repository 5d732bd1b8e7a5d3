// Host memory that copies to the device run from, handed out in turn. A piece may be written again
// once the copies from it are done, which half a ring later they nearly always are.
#ifndef KERNELS_CUDA_QUEUE_STAGING_RING_H_
#define KERNELS_CUDA_QUEUE_STAGING_RING_H_

#include <cstdint>
#include <memory>

#include <cuda_runtime.h>

#include "absl/status/statusor.h"

namespace salamander::cuda {

class StagingRing {
 public:
  static absl::StatusOr<std::unique_ptr<StagingRing>> Create(cudaStream_t stream);
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  // Enqueues the copy of `bytes` host bytes to the device; the host memory is free on return.
  absl::Status Upload(const void* source, int64_t bytes, void* destination);

 private:
  static constexpr int kHalves = 2;
  StagingRing(cudaStream_t stream, char* memory, cudaEvent_t first, cudaEvent_t second)
      : stream_(stream), memory_(memory), done_{first, second} {}
  absl::Status UploadPiece(const char* source, int64_t bytes, char* destination);

  cudaStream_t stream_;
  char* memory_;
  cudaEvent_t done_[kHalves];  // the copies from each half
  int half_ = 0;
  int64_t used_ = 0;  // bytes of the current half
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_QUEUE_STAGING_RING_H_
