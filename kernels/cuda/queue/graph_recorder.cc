#include <cstring>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/queue/graph_nodes.h"
#include "kernels/cuda/queue/graph_recording.h"
#include "kernels/cuda/queue/status.h"

namespace salamander::cuda {

const cudaGraphNode_t* GraphRecorder::before() const {
  return recording_.nodes_.empty() ? nullptr : &recording_.nodes_.back().node;
}

absl::Status GraphRecorder::Launch(const KernelLaunch& launch) {
  Node node{.kind = GraphRecording::Kind::kKernel,
            .kernel = launch.kernel,
            .grid = launch.grid,
            .block = launch.block,
            .shared_bytes = launch.shared_bytes};
  for (size_t i = 0; i < launch.arguments.size(); ++i) {
    const auto* const bytes = static_cast<const char*>(launch.arguments[i]);
    node.arguments.insert(node.arguments.end(), bytes, bytes + launch.sizes[i]);
  }
  const cudaKernelNodeParams parameters = KernelNode(launch);
  const cudaError_t error =
      cudaGraphAddKernelNode(&node.node, recording_.graph_, before(), before_count(), &parameters);
  if (error != cudaSuccess) return CudaFailure(error, launch.name, __FILE__, __LINE__);
  recording_.nodes_.push_back(std::move(node));
  return absl::OkStatus();
}

absl::Status GraphRecorder::Call(const LibraryCall& call) {
  Node node{.kind = GraphRecording::Kind::kCall,
            .identity = {call.identity.begin(), call.identity.end()}};
  RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(recording_.stream_, cudaStreamCaptureModeRelaxed));
  const absl::Status status = call.enqueue(recording_.stream_);
  cudaGraph_t captured = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(recording_.stream_, &captured);
  RETURN_IF_ERROR(status);
  RETURN_IF_CUDA_ERROR(ended);
  const cudaError_t error =
      cudaGraphAddChildGraphNode(&node.node, recording_.graph_, before(), before_count(), captured);
  cudaGraphDestroy(captured);
  if (error != cudaSuccess) return CudaFailure(error, call.name, __FILE__, __LINE__);
  recording_.nodes_.push_back(std::move(node));
  return absl::OkStatus();
}

absl::Status GraphRecorder::Fill(void* destination, int byte, int64_t bytes) {
  Node node{.kind = GraphRecording::Kind::kFill,
            .destination = destination,
            .byte = byte,
            .bytes = bytes};
  const cudaMemsetParams parameters = FillNode(destination, byte, bytes);
  RETURN_IF_CUDA_ERROR(
      cudaGraphAddMemsetNode(&node.node, recording_.graph_, before(), before_count(), &parameters));
  recording_.nodes_.push_back(std::move(node));
  return absl::OkStatus();
}

absl::Status GraphRecorder::Copy(const void* source, void* destination, int64_t bytes) {
  Node node{.kind = GraphRecording::Kind::kCopy,
            .source = source,
            .destination = destination,
            .bytes = bytes};
  RETURN_IF_CUDA_ERROR(
      cudaGraphAddMemcpyNode1D(&node.node, recording_.graph_, before(), before_count(), destination,
                               source, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice));
  recording_.nodes_.push_back(std::move(node));
  return absl::OkStatus();
}

absl::Status GraphRecorder::Upload(const void* host, void* destination, int64_t bytes) {
  ASSIGN_OR_RETURN(void* const pinned, recording_.TakePinned(bytes));
  std::memcpy(pinned, host, static_cast<size_t>(bytes));
  Node node{.kind = GraphRecording::Kind::kUpload,
            .source = pinned,
            .destination = destination,
            .bytes = bytes};
  RETURN_IF_CUDA_ERROR(
      cudaGraphAddMemcpyNode1D(&node.node, recording_.graph_, before(), before_count(), destination,
                               pinned, static_cast<size_t>(bytes), cudaMemcpyHostToDevice));
  recording_.nodes_.push_back(std::move(node));
  return absl::OkStatus();
}

absl::Status GraphRecorder::Download(const void* /*source*/, void* /*host*/, int64_t /*bytes*/) {
  return GraphRecorder::Wait();
}

absl::Status GraphRecorder::Wait() {
  return absl::InternalError(
      "ops that are recorded wait for the device; what waits belongs behind them");
}

}  // namespace salamander::cuda
