#include "kernels/cuda/block_attention.h"

namespace salamander::cuda {
namespace {

template <typename Args>
BlockAttention EveryBlock(const Args& args) {
  return {.q = args.q,
          .k = args.k,
          .v = args.v,
          .segments = args.segments,
          .blocks = {},
          .scale = args.scale};
}

}  // namespace

absl::Status BlockDenseForward(const ExecutionContext& context,
                               const DenseAttentionForwardArgs& args) {
  return BlockAttentionForward(context, EveryBlock(args), args.out, args.logsumexp);
}

absl::Status BlockDenseBackward(const ExecutionContext& context,
                                const DenseAttentionBackwardArgs& args) {
  return BlockAttentionBackward(context, EveryBlock(args),
                                {.out = args.out,
                                 .logsumexp = args.logsumexp,
                                 .d_out = args.d_out,
                                 .dq = args.dq,
                                 .dk = args.dk,
                                 .dv = args.dv});
}

}  // namespace salamander::cuda
