#include <cstring>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/queue/graph_nodes.h"
#include "kernels/cuda/queue/graph_recording.h"
#include "kernels/cuda/queue/status.h"

namespace salamander::cuda {
namespace {

bool AreEqual(const Grid& a, const Grid& b) {
  return a.x == b.x && a.y == b.y && a.z == b.z;
}

bool AreEqual(const dim3& a, const dim3& b) {
  return a.x == b.x && a.y == b.y && a.z == b.z;
}

// Writes the launch's arguments over the recorded ones; whether any changed. Another number of
// bytes means another kernel, which the caller has seen.
bool TakeArguments(const KernelLaunch& launch, std::vector<char>& recorded) {
  bool changed = false;
  size_t begin = 0;
  for (size_t i = 0; i < launch.arguments.size(); ++i) {
    const auto bytes = static_cast<size_t>(launch.sizes[i]);
    if (std::memcmp(recorded.data() + begin, launch.arguments[i], bytes) != 0) {
      std::memcpy(recorded.data() + begin, launch.arguments[i], bytes);
      changed = true;
    }
    begin += bytes;
  }
  return changed;
}

}  // namespace

GraphReviser::Node* GraphReviser::NextOf(Kind kind) {
  if (next_ == recording_.nodes_.size() || recording_.nodes_[next_].kind != kind) return nullptr;
  return &recording_.nodes_[next_++];
}

absl::Status GraphReviser::Diverge() {
  diverged_ = true;
  return absl::AbortedError("the ops enqueue other work than was recorded");
}

absl::Status GraphReviser::Take(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // it was said here, and is no error of the next call
  return Diverge();
}

absl::Status GraphReviser::Launch(const KernelLaunch& launch) {
  Node* const node = NextOf(Kind::kKernel);
  if (node == nullptr || node->kernel != launch.kernel) return Diverge();
  const bool same_shape = AreEqual(node->grid, launch.grid) &&
                          AreEqual(node->block, launch.block) &&
                          node->shared_bytes == launch.shared_bytes;
  if (!TakeArguments(launch, node->arguments) && same_shape) return absl::OkStatus();
  node->grid = launch.grid;
  node->block = launch.block;
  node->shared_bytes = launch.shared_bytes;
  const cudaKernelNodeParams parameters = KernelNode(launch);
  return Take(cudaGraphExecKernelNodeSetParams(recording_.executable_, node->node, &parameters));
}

absl::Status GraphReviser::Call(const LibraryCall& call) {
  const Node* const node = NextOf(Kind::kCall);
  if (node == nullptr || absl::MakeConstSpan(node->identity) != call.identity) return Diverge();
  return absl::OkStatus();
}

absl::Status GraphReviser::Fill(void* destination, int byte, int64_t bytes) {
  Node* const node = NextOf(Kind::kFill);
  if (node == nullptr || node->bytes != bytes) return Diverge();  // a fill keeps its size
  if (node->destination == destination && node->byte == byte) return absl::OkStatus();
  node->destination = destination;
  node->byte = byte;
  const cudaMemsetParams parameters = FillNode(destination, byte, bytes);
  return Take(cudaGraphExecMemsetNodeSetParams(recording_.executable_, node->node, &parameters));
}

absl::Status GraphReviser::Copy(const void* source, void* destination, int64_t bytes) {
  Node* const node = NextOf(Kind::kCopy);
  if (node == nullptr) return Diverge();
  if (node->source == source && node->destination == destination && node->bytes == bytes)
    return absl::OkStatus();
  node->source = source;
  node->destination = destination;
  node->bytes = bytes;
  RETURN_IF_CUDA_ERROR(
      cudaGraphExecMemcpyNodeSetParams1D(recording_.executable_, node->node, destination, source,
                                         static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice));
  return absl::OkStatus();
}

// A table of another size is another shape of work: its place was taken for the recorded size.
absl::Status GraphReviser::Upload(const void* host, void* destination, int64_t bytes) {
  const Node* const node = NextOf(Kind::kUpload);
  if (node == nullptr || node->destination != destination || node->bytes != bytes) return Diverge();
  std::memcpy(const_cast<void*>(node->source), host, static_cast<size_t>(bytes));
  return absl::OkStatus();
}

absl::Status GraphReviser::Download(const void* /*source*/, void* /*host*/, int64_t /*bytes*/) {
  return Diverge();
}

}  // namespace salamander::cuda
