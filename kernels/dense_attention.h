// Dense causal softmax attention with grouped queries, over segments.
//   o_i = sum_j softmax_j(scale * q_i . k_j) v_j over the keys j of i's segment at positions <= i's
// Query head h reads KV head h / (H / Hkv). Query row query_begin + i of a segment has position
// first_position + i, key row key_begin + p has position p. Rows that no segment names are neither
// read nor written.
//
// A NaN stays in its document. Inside it a NaN shows in every row that reads it and can show in
// rows near it that do not, fewer than 128 away: tiles are multiplied with weights of zero for what
// is masked, and zero times NaN is NaN.
#ifndef KERNELS_DENSE_ATTENTION_H_
#define KERNELS_DENSE_ATTENTION_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct DenseAttentionForwardArgs {
  TensorView q;     // [T, H, D]
  TensorView k, v;  // [Tk, Hkv, D]
  Segments segments;
  double scale = 1.0;
  TensorView out;        // [T, H, D]
  TensorView logsumexp;  // [T, H] natural log of the softmax denominator, in the activations'
                         // StatisticsType; empty: not wanted
};

struct DenseAttentionBackwardArgs {
  TensorView q;     // [T, H, D]
  TensorView k, v;  // [Tk, Hkv, D]
  Segments segments;
  double scale = 1.0;
  TensorView out;        // [T, H, D]
  TensorView logsumexp;  // [T, H]
  TensorView d_out;      // [T, H, D]
  TensorView dq;         // [T, H, D], rows of the segments overwritten
  TensorView dk, dv;     // [Tk, Hkv, D], added to
};

// Deterministic: key gradients are summed over query heads and query rows in a fixed order. The
// exception is dq where cuDNN computes it (CUDA, sm_90 and sm_100, documents of 128 tokens and
// more, head_dim 64 or 128): the order of its fp32 sums over keys, and so the last bit of dq, may
// change from run to run. In a deterministic context cuDNN computes no gradients.
absl::Status DenseAttentionForward(const ExecutionContext& context,
                                   const DenseAttentionForwardArgs& args);
absl::Status DenseAttentionBackward(const ExecutionContext& context,
                                    const DenseAttentionBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_DENSE_ATTENTION_H_
