// What an open CUDA device holds for the ops: the stream they enqueue on, library handles, a ring
// of pinned memory through which small tables reach the device without waiting, and the record of
// the first fault that a kernel met.
#ifndef KERNELS_CUDA_RUNTIME_H_
#define KERNELS_CUDA_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include <cuda_runtime.h>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/cuda/fault.h"

namespace salamander::cuda {

class CudnnAttention;  // kernels/cuda/cudnn_attention.h: dense attention by cuDNN
class Products;        // kernels/cuda/products.h: matrix products by cuBLASLt

// Host memory that copies to the device run from, handed out in turn. A piece may be written again
// once the copies from it are done, which half a ring later they nearly always are.
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

class Runtime {
 public:
  // Opens device `index`. Fails where it or its driver is too old.
  static absl::StatusOr<std::unique_ptr<Runtime>> Create(int index);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  cudaStream_t stream() const { return stream_; }
  const cudaDeviceProp& properties() const { return properties_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  bool is_hopper() const { return properties_.major == 9; }
  Products& products() { return *products_; }
  CudnnAttention* cudnn_attention();       // opened when first asked for; null where there is none
  Fault* fault() const { return fault_; }  // device memory, for kernels

  absl::Status Upload(const void* source, int64_t bytes, void* destination) {
    return staging_->Upload(source, bytes, destination);
  }

  // Enqueues the copy, then waits for the stream.
  absl::Status Download(const void* source, int64_t bytes, void* destination);

  // Waits for the stream; the first fault since the last wait becomes the status.
  absl::Status Wait();

 private:
  explicit Runtime(const cudaDeviceProp& properties);

  cudaDeviceProp properties_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<StagingRing> staging_;
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
      context.cuda->Upload(values.data(), count * static_cast<int64_t>(sizeof(Value)), copy);
  if (!status.ok()) return status;
  return copy;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_RUNTIME_H_
