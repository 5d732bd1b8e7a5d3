// Work goes nowhere. Under this queue ops do all that they do on the host, above all taking memory
// from the arena, which may be one without memory behind it (Arena::Planned).
#ifndef KERNELS_CUDA_QUEUE_PLANNING_QUEUE_H_
#define KERNELS_CUDA_QUEUE_PLANNING_QUEUE_H_

#include <cstring>

#include "kernels/cuda/queue/queue.h"

namespace salamander::cuda {

class PlanningQueue : public Queue {
 public:
  absl::Status Launch(const KernelLaunch& /*launch*/) override { return absl::OkStatus(); }
  absl::Status Call(const LibraryCall& /*call*/) override { return absl::OkStatus(); }
  absl::Status Fill(void* /*destination*/, int /*byte*/, int64_t /*bytes*/) override {
    return absl::OkStatus();
  }
  absl::Status Copy(const void* /*source*/, void* /*destination*/, int64_t /*bytes*/) override {
    return absl::OkStatus();
  }
  absl::Status Upload(const void* /*host*/, void* /*destination*/, int64_t /*bytes*/) override {
    return absl::OkStatus();
  }
  // Zeros, so that the caller reads something that is initialised.
  absl::Status Download(const void* /*source*/, void* host, int64_t bytes) override {
    std::memset(host, 0, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_QUEUE_PLANNING_QUEUE_H_
