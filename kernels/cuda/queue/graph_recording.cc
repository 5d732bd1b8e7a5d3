#include "kernels/cuda/queue/graph_recording.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/queue/status.h"

namespace salamander::cuda {
namespace {

constexpr int64_t kPageBytes = int64_t{1} << 20;
constexpr int64_t kPinnedAlignment = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<GraphRecording>> GraphRecording::Create(cudaStream_t stream) {
  std::unique_ptr<GraphRecording> recording(new GraphRecording(stream));
  RETURN_IF_CUDA_ERROR(cudaGraphCreate(&recording->graph_, 0));
  RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&recording->done_, cudaEventDisableTiming));
  return recording;
}

GraphRecording::~GraphRecording() {
  if (done_ != nullptr) cudaEventSynchronize(done_);
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  if (graph_ != nullptr) cudaGraphDestroy(graph_);
  if (done_ != nullptr) cudaEventDestroy(done_);
  for (void* page : pages_) cudaFreeHost(page);
}

absl::StatusOr<void*> GraphRecording::TakePinned(int64_t bytes) {
  const int64_t taken = (bytes + kPinnedAlignment - 1) / kPinnedAlignment * kPinnedAlignment;
  if (page_used_ + taken > page_bytes_) {
    const int64_t size = std::max(taken, kPageBytes);
    void* page = nullptr;
    RETURN_IF_CUDA_ERROR(cudaMallocHost(&page, static_cast<size_t>(size)));
    pages_.push_back(page);
    page_bytes_ = size;
    page_used_ = 0;
  }
  void* const place = static_cast<char*>(pages_.back()) + page_used_;
  page_used_ += taken;
  return place;
}

absl::Status GraphRecording::Instantiate() {
  RETURN_IF_CUDA_ERROR(cudaGraphInstantiate(&executable_, graph_, 0));
  return absl::OkStatus();
}

absl::Status GraphRecording::Launch() {
  RETURN_IF_CUDA_ERROR(cudaGraphLaunch(executable_, stream_));
  RETURN_IF_CUDA_ERROR(cudaEventRecord(done_, stream_));
  return absl::OkStatus();
}

absl::Status GraphRecording::Wait() {
  RETURN_IF_CUDA_ERROR(cudaEventSynchronize(done_));
  return absl::OkStatus();
}

}  // namespace salamander::cuda
