// From the logits of a chunk of rows to their losses and the gradient of the logits.
#ifndef KERNELS_CUDA_LOSS_HEAD_LOSS_ROWS_H_
#define KERNELS_CUDA_LOSS_HEAD_LOSS_ROWS_H_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "kernels/head_loss.h"

namespace salamander::cuda {

// What a loss reads and writes beside its logits, which are those of rows first_token and on.
struct LossRows {
  TensorView weights;           // [T] fp32; a row of weight 0 counts as nothing, whatever it holds
  int64_t first_token = 0;      // of the chunk
  double gradient_scale = 1.0;  // of (softmax - target), beside the row's weight
  TensorView d_logits;          // [rows of the chunk, V] bf16, or empty
  TensorView token_losses;      // [T] fp32, or empty
  TensorView predictions;       // [T] int32, or empty
  double* losses = nullptr;     // [T] on the device, or null
  const VocabularySplit* split = nullptr;  // of which the logits are a part; or null
};

// logits [rows, V] fp32, targets [T]. Where they are a part of a split vocabulary, the ranks gather
// what they know of the rows before the gradient is taken. A target outside the vocabulary is a
// fault, its row nothing.
absl::Status CrossEntropyRows(const ExecutionContext& context, const TensorView& logits,
                              const TensorView& targets, const LossRows& rows);

// student, teacher [rows, V] fp32: their logits.
absl::Status DistillationRows(const ExecutionContext& context, const TensorView& student,
                              const TensorView& teacher, const LossRows& rows);

// masked = rows [N, C] bf16, but for zeros where the weight is 0. weights [N] on the device.
absl::Status MaskRows(const ExecutionContext& context, const TensorView& rows, const float* weights,
                      const TensorView& masked);

// loss_sum [1] fp64 += sum over t of weights [T] times losses [T], by a partition that T fixes.
absl::Status AddLosses(const ExecutionContext& context, const double* losses,
                       const TensorView& weights, const TensorView& loss_sum);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LOSS_HEAD_LOSS_ROWS_H_
