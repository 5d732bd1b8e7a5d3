// Dense and sparse attention: block attention over every block, or over the listed ones.
#include "kernels/backend_ops.h"
#include "kernels/cpu/block_attention.h"

namespace salamander::cpu {
namespace {

// Of the arguments of either op, forward or backward.
template <typename T, typename Args>
BlockAttention<T> Describe(const Args& args) {
  BlockAttention<T> attention = {.q = args.q.template data<T>(),
                                 .k = args.k.template data<T>(),
                                 .v = args.v.template data<T>(),
                                 .heads = args.q.dim(1),
                                 .key_heads = args.k.dim(1),
                                 .head_dim = args.q.dim(2),
                                 .segments = args.segments,
                                 .scale = args.scale};
  if constexpr (requires { args.blocks; }) {
    attention.lists = args.blocks.template data<int32_t>();
    attention.list_length = args.blocks.dim(2);
    attention.block_size = args.block_size;
  }
  return attention;
}

template <typename T, typename Args>
void ForwardIn(const ExecutionContext& context, const Args& args) {
  BlockAttentionForward<T>(context, Describe<T>(args), args.out.template data<T>(),
                           args.logsumexp.empty() ? nullptr : args.logsumexp.template data<T>());
}

template <typename T, typename Args>
void BackwardIn(const ExecutionContext& context, const Args& args) {
  BlockAttentionBackward<T>(context, Describe<T>(args),
                            {.out = args.out.template data<T>(),
                             .logsumexp = args.logsumexp.template data<T>(),
                             .d_out = args.d_out.template data<T>(),
                             .dq = args.dq.template data<T>(),
                             .dk = args.dk.template data<T>(),
                             .dv = args.dv.template data<T>()});
}

template <typename Args>
absl::Status Forward(const ExecutionContext& context, const Args& args) {
  if (args.q.dtype() == DType::kFloat64) {
    ForwardIn<double>(context, args);
  } else {
    ForwardIn<float>(context, args);
  }
  return absl::OkStatus();
}

template <typename Args>
absl::Status Backward(const ExecutionContext& context, const Args& args) {
  if (args.q.dtype() == DType::kFloat64) {
    BackwardIn<double>(context, args);
  } else {
    BackwardIn<float>(context, args);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DenseAttentionForward(const ExecutionContext& context,
                                   const DenseAttentionForwardArgs& args) {
  return Forward(context, args);
}

absl::Status DenseAttentionBackward(const ExecutionContext& context,
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

}  // namespace salamander::cpu
