// Sparse attention: block attention over the listed blocks.
#include "kernels/cuda/block_attention.h"
#include "kernels/cuda/cuda_ops.h"

namespace salamander::cuda {
namespace {

template <typename Args>
BlockAttention ListedBlocks(const Args& args) {
  return {.q = args.q,
          .k = args.k,
          .v = args.v,
          .segments = args.segments,
          .blocks = args.blocks,
          .block_size = args.block_size,
          .scale = args.scale};
}

}  // namespace

absl::Status SparseAttentionForward(const ExecutionContext& context,
                                    const SparseAttentionForwardArgs& args) {
  return BlockAttentionForward(context, ListedBlocks(args), args.out, args.logsumexp);
}

absl::Status SparseAttentionBackward(const ExecutionContext& context,
                                     const SparseAttentionBackwardArgs& args) {
  return BlockAttentionBackward(context, ListedBlocks(args),
                                {.out = args.out,
                                 .logsumexp = args.logsumexp,
                                 .d_out = args.d_out,
                                 .dq = args.dq,
                                 .dk = args.dk,
                                 .dv = args.dv});
}

}  // namespace salamander::cuda
