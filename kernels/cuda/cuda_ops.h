// The CUDA side of every op: bf16 tensors, fp32 statistics and parameter gradients. No CUDA type
// shows here. kernels/<op>.cc checks shapes and picks the backend by the context's device. All ops
// enqueue on the runtime's stream and return without waiting, but for CopyToHost.
#ifndef KERNELS_CUDA_CUDA_OPS_H_
#define KERNELS_CUDA_CUDA_OPS_H_

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
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_tables.h"
#include "kernels/sigmoid_gate.h"
#include "kernels/sparse_attention.h"
#include "kernels/swiglu.h"

namespace salamander::cuda {

absl::Status Zero(const ExecutionContext& context, const TensorView& tensor);
absl::Status Copy(const ExecutionContext& context, const TensorView& source,
                  const TensorView& destination);
absl::Status Convert(const ExecutionContext& context, const TensorView& source,
                     const TensorView& destination);
absl::Status CopyFromHost(const ExecutionContext& context, const void* host,
                          const TensorView& destination);
absl::Status CopyToHost(const ExecutionContext& context, const TensorView& source, void* host);
absl::Status RopeTables(const ExecutionContext& context, const RopeTablesArgs& args);
absl::Status LinearForward(const ExecutionContext& context, const LinearForwardArgs& args);
absl::Status LinearBackward(const ExecutionContext& context, const LinearBackwardArgs& args);
absl::Status EmbeddingForward(const ExecutionContext& context, const EmbeddingForwardArgs& args);
absl::Status EmbeddingBackward(const ExecutionContext& context, const EmbeddingBackwardArgs& args);
absl::Status RmsNormForward(const ExecutionContext& context, const RmsNormForwardArgs& args);
absl::Status RmsNormBackward(const ExecutionContext& context, const RmsNormBackwardArgs& args);
absl::Status HeadNormRopeForward(const ExecutionContext& context,
                                 const HeadNormRopeForwardArgs& args);
absl::Status HeadNormRopeBackward(const ExecutionContext& context,
                                  const HeadNormRopeBackwardArgs& args);
absl::Status SwigluForward(const ExecutionContext& context, const SwigluForwardArgs& args);
absl::Status SwigluBackward(const ExecutionContext& context, const SwigluBackwardArgs& args);
absl::Status SigmoidGateForward(const ExecutionContext& context,
                                const SigmoidGateForwardArgs& args);
absl::Status SigmoidGateBackward(const ExecutionContext& context,
                                 const SigmoidGateBackwardArgs& args);
absl::Status HeadCrossEntropy(const ExecutionContext& context, const HeadCrossEntropyArgs& args);
absl::Status HeadDistillation(const ExecutionContext& context, const HeadDistillationArgs& args);
absl::Status HeadLogits(const ExecutionContext& context, const HeadLogitsArgs& args);
absl::Status LayerMse(const ExecutionContext& context, const LayerMseArgs& args);
absl::Status AdamWUpdate(const ExecutionContext& context, const AdamWArgs& args);
absl::Status SumOfSquares(const ExecutionContext& context, absl::Span<const TensorView> tensors,
                          const TensorView& sum);
absl::Status DenseAttentionForward(const ExecutionContext& context,
                                   const DenseAttentionForwardArgs& args);
absl::Status DenseAttentionBackward(const ExecutionContext& context,
                                    const DenseAttentionBackwardArgs& args);
absl::Status PoolKeys(const ExecutionContext& context, const PoolKeysArgs& args);
absl::Status SelectBlocks(const ExecutionContext& context, const SelectBlocksArgs& args);
absl::Status SparseAttentionForward(const ExecutionContext& context,
                                    const SparseAttentionForwardArgs& args);
absl::Status SparseAttentionBackward(const ExecutionContext& context,
                                     const SparseAttentionBackwardArgs& args);
absl::Status LightningForward(const ExecutionContext& context, const LightningForwardArgs& args);
absl::Status LightningBackward(const ExecutionContext& context, const LightningBackwardArgs& args);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_CUDA_OPS_H_
