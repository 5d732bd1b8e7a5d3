// What an open CUDA device holds for the ops: the queue that takes their work, its stream, library
// handles, and the record of the first fault that a kernel met.
#ifndef KERNELS_CUDA_RUNTIME_H_
#define KERNELS_CUDA_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include <cuda_runtime.h>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/cuda/queue/fault.h"
#include "kernels/cuda/queue/queue.h"
#include "kernels/cuda/queue/stream_queue.h"

namespace salamander::cuda {

class CudnnAttention;  // kernels/cuda/attention/cudnn_attention.h: dense attention by cuDNN
class Products;        // kernels/cuda/linear/products.h: matrix products by cuBLASLt

class Runtime {
 public:
  // Opens device `index`. Fails where it is too old.
  static absl::StatusOr<std::unique_ptr<Runtime>> Create(int index);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  cudaStream_t stream() const { return stream_; }
  const cudaDeviceProp& properties() const { return properties_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  // Whether kernels of warpgroup.cuh run here.
  bool has_warpgroups() const { return properties_.major == 9; }
  // Whether one kernel may hold every multiprocessor until all its blocks have begun: not where MPS
  // lets processes share the device. A process has one Runtime to a device, and all it runs there
  // goes through the one stream.
  bool has_whole_device() const { return has_whole_device_; }
  Products& products() { return *products_; }
  CudnnAttention* cudnn_attention();       // opened when first asked for; null where there is none
  Fault* fault() const { return fault_; }  // device memory, for kernels

  // Hands the work to the queue, as its namesakes there. Launch refuses what the device cannot run;
  // a grid of no blocks and a move of no bytes are nothing to do.
  absl::Status Launch(const KernelLaunch& launch);
  absl::Status Call(const LibraryCall& call) { return queue_->Call(call); }
  absl::Status Fill(void* destination, int byte, int64_t bytes);
  absl::Status Copy(const void* source, void* destination, int64_t bytes);
  absl::Status Upload(const void* host, void* destination, int64_t bytes);

  // `host` holds the bytes on return: waits for the stream.
  absl::Status Download(const void* source, void* host, int64_t bytes);

  // Waits for the stream; the first fault since the last wait becomes the status. Where work goes
  // elsewhere there is nothing to wait for.
  absl::Status Wait();

  // From construction to destruction work goes to `queue`.
  class Redirection {
   public:
    Redirection(Runtime& runtime, Queue& queue) : runtime_(runtime), before_(runtime.queue_) {
      runtime_.queue_ = &queue;
    }
    ~Redirection() { runtime_.queue_ = before_; }
    Redirection(const Redirection&) = delete;
    Redirection& operator=(const Redirection&) = delete;

   private:
    Runtime& runtime_;
    Queue* before_;
  };

 private:
  explicit Runtime(const cudaDeviceProp& properties);
  absl::Status CheckGrid(const KernelLaunch& launch) const;
  absl::Status AllowSharedMemory(const KernelLaunch& launch);

  cudaDeviceProp properties_;
  bool has_whole_device_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<StreamQueue> stream_queue_;
  Queue* queue_ = nullptr;
  std::map<const void*, int64_t> allowed_shared_bytes_;  // of kernels that were allowed more
  std::unique_ptr<Products> products_;
  std::unique_ptr<CudnnAttention> cudnn_attention_;
  bool has_looked_for_cudnn_ = false;
  Fault* fault_ = nullptr;       // device
  Fault* seen_fault_ = nullptr;  // pinned
};

// A copy of `values` in the context's arena, on its way to the device.
template <typename Value>
absl::StatusOr<const Value*> UploadArray(const ExecutionContext& context,
                                         absl::Span<const Value> values) {
  const auto count = static_cast<int64_t>(values.size());
  auto* const copy = context.arena->Array<Value>(count > 0 ? count : 1);
  const absl::Status status =
      context.cuda->Upload(values.data(), copy, count * static_cast<int64_t>(sizeof(Value)));
  if (!status.ok()) return status;
  return copy;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_RUNTIME_H_
