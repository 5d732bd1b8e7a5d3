// Dense causal attention by cuDNN's fused kernels: the fastest there are on sm_90 and newer for
// documents of some length, but for gradients whose last bits differ from run to run.
#ifndef KERNELS_CUDA_ATTENTION_CUDNN_ATTENTION_H_
#define KERNELS_CUDA_ATTENTION_CUDNN_ATTENTION_H_

#include <cstdint>
#include <memory>

#include <cuda_runtime.h>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/dense_attention.h"

namespace salamander::cuda {

class CudnnAttention {
 public:
  // Null where the build has no cuDNN, or where the device or the cuDNN found at run time is older
  // than what packed documents with grouped queries need.
  static std::unique_ptr<CudnnAttention> Open(cudaStream_t stream, const cudaDeviceProp& device);
  virtual ~CudnnAttention() = default;

  // Whether heads of this width are among those that are tested here.
  virtual bool Serves(int64_t head_dim) const = 0;

  // Requires: Serves, tensors aligned to 16 bytes, and segments that start at position 0, in
  // ascending order of their rows. A
  // graph is built, which takes a moment, for every new pair of the powers of two above the number
  // of segments and above the longest one: hand over segments of like length together.
  virtual absl::Status Forward(const ExecutionContext& context,
                               const DenseAttentionForwardArgs& args) = 0;

  // The segments' rows of dk and dv are overwritten like those of dq, not added to.
  virtual absl::Status Backward(const ExecutionContext& context,
                                const DenseAttentionBackwardArgs& args) = 0;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_CUDNN_ATTENTION_H_
