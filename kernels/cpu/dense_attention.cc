// Dense causal attention: block attention with every block read.
#include "kernels/cpu/block_attention.h"
#include "kernels/cpu/cpu_ops.h"

namespace salamander::cpu {
namespace {

template <typename T, typename Args>
BlockAttention<T> EveryBlock(const Args& args) {
  return {.q = args.q.template data<T>(),
          .k = args.k.template data<T>(),
          .v = args.v.template data<T>(),
          .heads = args.q.dim(1),
          .key_heads = args.k.dim(1),
          .head_dim = args.q.dim(2),
          .segments = args.segments,
          .scale = args.scale};
}

template <typename T>
void Forward(const ExecutionContext& context, const DenseAttentionForwardArgs& args) {
  BlockAttentionForward<T>(context, EveryBlock<T>(args), args.out.data<T>(),
                           args.logsumexp.empty() ? nullptr : args.logsumexp.data<T>());
}

template <typename T>
void Backward(const ExecutionContext& context, const DenseAttentionBackwardArgs& args) {
  BlockAttentionBackward<T>(context, EveryBlock<T>(args),
                            {.out = args.out.data<T>(),
                             .logsumexp = args.logsumexp.data<T>(),
                             .d_out = args.d_out.data<T>(),
                             .dq = args.dq.data<T>(),
                             .dk = args.dk.data<T>(),
                             .dv = args.dv.data<T>()});
}

}  // namespace

absl::Status DenseAttentionForward(const ExecutionContext& context,
                                   const DenseAttentionForwardArgs& args) {
  if (args.q.dtype() == DType::kFloat64) {
    Forward<double>(context, args);
  } else {
    Forward<float>(context, args);
  }
  return absl::OkStatus();
}

absl::Status DenseAttentionBackward(const ExecutionContext& context,
                                    const DenseAttentionBackwardArgs& args) {
  if (args.q.dtype() == DType::kFloat64) {
    Backward<double>(context, args);
  } else {
    Backward<float>(context, args);
  }
  return absl::OkStatus();
}

}  // namespace salamander::cpu
