// Work goes to the stream at once.
#ifndef KERNELS_CUDA_QUEUE_STREAM_QUEUE_H_
#define KERNELS_CUDA_QUEUE_STREAM_QUEUE_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"

#include "kernels/cuda/queue/queue.h"
#include "kernels/cuda/queue/staging_ring.h"

namespace salamander::cuda {

class StreamQueue : public Queue {
 public:
  static absl::StatusOr<std::unique_ptr<StreamQueue>> Create(cudaStream_t stream);

  absl::Status Launch(const KernelLaunch& launch) override;
  absl::Status Call(const LibraryCall& call) override { return call.enqueue(stream_); }
  absl::Status Fill(void* destination, int byte, int64_t bytes) override;
  absl::Status Copy(const void* source, void* destination, int64_t bytes) override;
  absl::Status Upload(const void* host, void* destination, int64_t bytes) override {
    return staging_->Upload(host, bytes, destination);
  }
  absl::Status Download(const void* source, void* host, int64_t bytes) override;

 private:
  StreamQueue(cudaStream_t stream, std::unique_ptr<StagingRing> staging)
      : stream_(stream), staging_(std::move(staging)) {}

  cudaStream_t stream_;
  std::unique_ptr<StagingRing> staging_;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_QUEUE_STREAM_QUEUE_H_
