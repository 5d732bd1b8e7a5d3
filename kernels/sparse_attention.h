// InfLLM-V2 stage 2: causal softmax attention over the selected blocks of keys; carries all the
// gradient.
//   o_i = sum_j softmax_j(scale * q_i . k_j) v_j over keys j at positions <= i's whose block is in
//   blocks[i, h / (H / Hkv)]
// Rows, positions, heads and NaN as in dense_attention.h; a query can also meet the NaN of a block
// that only queries near it list. Every list holds the query's own block.
#ifndef KERNELS_SPARSE_ATTENTION_H_
#define KERNELS_SPARSE_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct SparseAttentionForwardArgs {
  TensorView q;     // [T, H, D]
  TensorView k, v;  // [Tk, Hkv, D]
  Segments segments;
  TensorView blocks;        // [T, Hkv, N] int32, ascending within the row, then -1
  int64_t block_size = 64;  // keys a block; block b of a segment starts at position b * block_size
  double scale = 1.0;
  TensorView out;        // [T, H, D]
  TensorView logsumexp;  // [T, H]; empty: not wanted
};

struct SparseAttentionBackwardArgs {
  TensorView q;     // [T, H, D]
  TensorView k, v;  // [Tk, Hkv, D]
  Segments segments;
  TensorView blocks;  // [T, Hkv, N] int32
  int64_t block_size = 64;
  double scale = 1.0;
  TensorView out;        // [T, H, D]
  TensorView logsumexp;  // [T, H]
  TensorView d_out;      // [T, H, D]
  TensorView dq;         // [T, H, D], rows of the segments overwritten
  TensorView dk, dv;     // [Tk, Hkv, D], added to
};

// Deterministic: no atomics, sums in a fixed order.
absl::Status SparseAttentionForward(const ExecutionContext& context,
                                    const SparseAttentionForwardArgs& args);
absl::Status SparseAttentionBackward(const ExecutionContext& context,
                                     const SparseAttentionBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_SPARSE_ATTENTION_H_
