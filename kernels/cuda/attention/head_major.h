// Statistics of attention from one layout to the other.
#ifndef KERNELS_CUDA_ATTENTION_HEAD_MAJOR_H_
#define KERNELS_CUDA_ATTENTION_HEAD_MAJOR_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander::cuda {

// head_major [H, T] = the transpose of token_major [T, H], both fp32.
absl::Status CopyHeadMajor(const ExecutionContext& context, const TensorView& token_major,
                           const TensorView& head_major);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_HEAD_MAJOR_H_
