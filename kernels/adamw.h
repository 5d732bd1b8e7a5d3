// AdamW over any number of tensors in one call, with fp32 state, and the global norm that clipping
// needs. With g = gradient_scale * gradient:
//   m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
//   w -= lr * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon) + weight_decay * w)
// Source: arXiv 1711.05101, decay decoupled and multiplied by the learning rate, as in PyTorch.
#ifndef KERNELS_ADAMW_H_
#define KERNELS_ADAMW_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct AdamWTensor {
  TensorView weight, gradient, first_moment, second_moment;  // equal shapes, fp32 (or fp64)
  TensorView rounded;  // bf16, receives the new weight rounded; or empty
  double learning_rate = 0.0;
  double weight_decay = 0.0;
};

struct AdamWArgs {
  absl::Span<const AdamWTensor> tensors;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  int64_t step = 1;             // 1 at the first update since the moments were zero
  TensorView gradient_squares;  // [1] fp64, the global SumOfSquares of the gradients
  double clip_norm = 0.0;       // gradient_scale = min(1, clip_norm / sqrt(gradient_squares)); 0: 1
};

// Changes nothing where gradient_squares is not finite.
absl::Status AdamWUpdate(const ExecutionContext& context, const AdamWArgs& args);

// sum [1] fp64 receives the sum of squares of all elements of all tensors, accumulated in fp64 in a
// fixed order.
absl::Status SumOfSquares(const ExecutionContext& context, absl::Span<const TensorView> tensors,
                          const TensorView& sum);

}  // namespace salamander

#endif  // KERNELS_ADAMW_H_
