// Sparse attention, and dense attention without cuDNN: block attention over the listed blocks, or
// over every block.
#include "kernels/cuda/attention/block_attention.h"

#include "kernels/backend_ops.h"

namespace salamander::cuda {
namespace {

// Of the arguments of either op, forward or backward.
template <typename Args>
BlockAttention Describe(const Args& args) {
  BlockAttention attention = {.q = args.q,
                              .k = args.k,
                              .v = args.v,
                              .segments = args.segments,
                              .blocks = {},
                              .scale = args.scale};
  if constexpr (requires { args.blocks; }) {
    attention.blocks = args.blocks;
    attention.block_size = args.block_size;
  }
  return attention;
}

template <typename Args>
absl::Status Forward(const ExecutionContext& context, const Args& args) {
  return BlockAttentionForward(context, Describe(args), args.out, args.logsumexp);
}

template <typename Args>
absl::Status Backward(const ExecutionContext& context, const Args& args) {
  return BlockAttentionBackward(context, Describe(args),
                                {.out = args.out,
                                 .logsumexp = args.logsumexp,
                                 .d_out = args.d_out,
                                 .dq = args.dq,
                                 .dk = args.dk,
                                 .dv = args.dv});
}

}  // namespace

absl::Status BlockDenseForward(const ExecutionContext& context,
                               const DenseAttentionForwardArgs& args) {
  return Forward(context, args);
}

absl::Status BlockDenseBackward(const ExecutionContext& context,
                                const DenseAttentionBackwardArgs& args) {
  return Backward(context, args);
}

absl::Status SparseAttentionForward(const ExecutionContext& context,
                                    const SparseAttentionForwardArgs& args) {
  return Forward(context, args);
}

absl::Status SparseAttentionBackward(const ExecutionContext& context,
                                     const SparseAttentionBackwardArgs& args) {
  return Backward(context, args);
}

}  // namespace salamander::cuda
