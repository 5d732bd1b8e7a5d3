// Every op as each backend implements it. The op's own header says what it computes and
// kernels/<op>.cc checks shapes and picks the backend by the context's device.
//   cpu   fp32 or fp64 (bf16 in kernels/memory.h alone); computes as it is called
//   cuda  bf16 with fp32 statistics and parameter gradients; enqueues and returns, but for
//         CopyToHost. Defined where the build has the backend.
#ifndef KERNELS_BACKEND_OPS_H_
#define KERNELS_BACKEND_OPS_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "kernels/adamw.h"
#include "kernels/base/execution_context.h"
#include "kernels/block_selection.h"
#include "kernels/dense_attention.h"
#include "kernels/embedding.h"
#include "kernels/head_loss.h"
#include "kernels/head_norm_rope.h"
#include "kernels/layer_mse.h"
#include "kernels/lightning_attention.h"
#include "kernels/lightning_states.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_tables.h"
#include "kernels/sigmoid_gate.h"
#include "kernels/sparse_attention.h"
#include "kernels/swiglu.h"

#define DECLARE_OP(op, Args) absl::Status op(const ExecutionContext& context, const Args& args);

#define DECLARE_OPS_OF(backend)                                                                    \
  namespace backend {                                                                              \
  absl::Status Zero(const ExecutionContext& context, const TensorView& tensor);                    \
  absl::Status Copy(const ExecutionContext& context, const TensorView& source,                     \
                    const TensorView& destination);                                                \
  absl::Status Add(const ExecutionContext& context, const TensorView& source,                      \
                   const TensorView& destination);                                                 \
  absl::Status JoinColumns(const ExecutionContext& context, const TensorView& source,              \
                           int64_t parts, const TensorView& destination);                          \
  absl::Status Convert(const ExecutionContext& context, const TensorView& source,                  \
                       const TensorView& destination);                                             \
  absl::Status CopyFromHost(const ExecutionContext& context, const void* host,                     \
                            const TensorView& destination);                                        \
  absl::Status CopyToHost(const ExecutionContext& context, const TensorView& source, void* host);  \
  absl::Status SumOfSquares(const ExecutionContext& context, absl::Span<const TensorView> tensors, \
                            const TensorView& sum);                                                \
  DECLARE_OP(AdamWUpdate, AdamWArgs)                                                               \
  DECLARE_OP(DenseAttentionBackward, DenseAttentionBackwardArgs)                                   \
  DECLARE_OP(DenseAttentionForward, DenseAttentionForwardArgs)                                     \
  DECLARE_OP(EmbeddingBackward, EmbeddingBackwardArgs)                                             \
  DECLARE_OP(EmbeddingForward, EmbeddingForwardArgs)                                               \
  DECLARE_OP(HeadCrossEntropy, HeadCrossEntropyArgs)                                               \
  DECLARE_OP(HeadDistillation, HeadDistillationArgs)                                               \
  DECLARE_OP(HeadLogits, HeadLogitsArgs)                                                           \
  DECLARE_OP(HeadNormRopeBackward, HeadNormRopeBackwardArgs)                                       \
  DECLARE_OP(HeadNormRopeForward, HeadNormRopeForwardArgs)                                         \
  DECLARE_OP(LayerMse, LayerMseArgs)                                                               \
  DECLARE_OP(LightningBackward, LightningBackwardArgs)                                             \
  DECLARE_OP(LightningEndState, LightningEndStateArgs)                                             \
  DECLARE_OP(LightningForward, LightningForwardArgs)                                               \
  DECLARE_OP(LightningStateSum, LightningStateSumArgs)                                             \
  DECLARE_OP(LinearBackward, LinearBackwardArgs)                                                   \
  DECLARE_OP(LinearForward, LinearForwardArgs)                                                     \
  DECLARE_OP(PoolKeys, PoolKeysArgs)                                                               \
  DECLARE_OP(RmsNormBackward, RmsNormBackwardArgs)                                                 \
  DECLARE_OP(RmsNormForward, RmsNormForwardArgs)                                                   \
  DECLARE_OP(RmsNormSums, RmsNormSumsArgs)                                                         \
  DECLARE_OP(RopeTables, RopeTablesArgs)                                                           \
  DECLARE_OP(SelectBlocks, SelectBlocksArgs)                                                       \
  DECLARE_OP(SigmoidGateBackward, SigmoidGateBackwardArgs)                                         \
  DECLARE_OP(SigmoidGateForward, SigmoidGateForwardArgs)                                           \
  DECLARE_OP(SparseAttentionBackward, SparseAttentionBackwardArgs)                                 \
  DECLARE_OP(SparseAttentionForward, SparseAttentionForwardArgs)                                   \
  DECLARE_OP(SwigluBackward, SwigluBackwardArgs)                                                   \
  DECLARE_OP(SwigluForward, SwigluForwardArgs)                                                     \
  }  // namespace backend

namespace salamander {

DECLARE_OPS_OF(cpu)
DECLARE_OPS_OF(cuda)

}  // namespace salamander

#undef DECLARE_OPS_OF
#undef DECLARE_OP

#endif  // KERNELS_BACKEND_OPS_H_
