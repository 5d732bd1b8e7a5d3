#include "kernels/cuda/queue/staging_ring.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/queue/status.h"

namespace salamander::cuda {
namespace {

constexpr int64_t kStagingHalfBytes = int64_t{4} << 20;
constexpr int64_t kStagingAlignment = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<StagingRing>> StagingRing::Create(cudaStream_t stream) {
  void* memory = nullptr;
  RETURN_IF_CUDA_ERROR(cudaMallocHost(&memory, kHalves * kStagingHalfBytes));
  cudaEvent_t events[kHalves] = {};
  for (cudaEvent_t& event : events) {
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  return std::unique_ptr<StagingRing>(
      new StagingRing(stream, static_cast<char*>(memory), events[0], events[1]));
}

StagingRing::~StagingRing() {
  for (cudaEvent_t event : done_) cudaEventDestroy(event);
  cudaFreeHost(memory_);
}

absl::Status StagingRing::Upload(const void* source, int64_t bytes, void* destination) {
  const auto* from = static_cast<const char*>(source);
  auto* to = static_cast<char*>(destination);
  for (int64_t begin = 0; begin < bytes; begin += kStagingHalfBytes) {
    const int64_t piece = std::min(kStagingHalfBytes, bytes - begin);
    RETURN_IF_ERROR(UploadPiece(from + begin, piece, to + begin));
  }
  return absl::OkStatus();
}

absl::Status StagingRing::UploadPiece(const char* source, int64_t bytes, char* destination) {
  if (used_ + bytes > kStagingHalfBytes) {
    RETURN_IF_CUDA_ERROR(cudaEventRecord(done_[half_], stream_));
    half_ = (half_ + 1) % kHalves;
    used_ = 0;
    RETURN_IF_CUDA_ERROR(cudaEventSynchronize(done_[half_]));
  }
  char* const staged = memory_ + half_ * kStagingHalfBytes + used_;
  std::memcpy(staged, source, static_cast<size_t>(bytes));
  used_ += (bytes + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment;
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(destination, staged, static_cast<size_t>(bytes),
                                       cudaMemcpyHostToDevice, stream_));
  return absl::OkStatus();
}

}  // namespace salamander::cuda
