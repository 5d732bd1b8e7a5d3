// Causal softmax attention over blocks of keys by tensor cores (mma.sync, sm_80 and newer): the one
// engine behind sparse attention, and behind dense attention where cuDNN does not serve (decoding,
// deterministic gradients, no cuDNN). Dense attention is the case where every query reads every
// block up to its own.
//
// A tile is 64 rows of one KV head: row r of a segment is query r / G with head r % G of the group,
// so that any group fills the tensor cores' rows. Keys come in pieces of up to 64 of one block.
// Queries of a tile share every piece that any of them reads; rows that do not read it are masked,
// and a warp (16 rows) without a reader has nothing to do with it.
//
// On Hopper, where shapes allow, the forward and the gradient of the queries of segments of more
// than one tile are taken by warpgroups in tiles of 128 rows (block_attention_hopper.cuh), and the
// gradients of keys and values by a warpgroup for 64 keys
// (block_attention_backward_keys_hopper.cu).
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_H_
#define KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "kernels/dense_attention.h"

namespace salamander::cuda {

// Dense attention without cuDNN. head_dim up to 128. Deterministic; the keys of a lone tile that
// reaches far back (decoding) are cut into parts by a rule of shapes alone. Requires in the
// backward: segments of one call share no keys.
absl::Status BlockDenseForward(const ExecutionContext& context,
                               const DenseAttentionForwardArgs& args);
absl::Status BlockDenseBackward(const ExecutionContext& context,
                                const DenseAttentionBackwardArgs& args);

struct BlockAttention {
  TensorView q;     // [T, H, D]
  TensorView k, v;  // [Tk, Hkv, D]
  Segments segments;
  TensorView blocks;  // [T, Hkv, N] int32, ascending, then -1; empty: every block
  int64_t block_size = 64;
  double scale = 1.0;
};

struct BlockAttentionGradients {
  TensorView out;        // [T, H, D]
  TensorView logsumexp;  // [T, H] fp32
  TensorView d_out;      // [T, H, D]
  TensorView dq;         // [T, H, D]
  TensorView dk, dv;     // [Tk, Hkv, D], added to
};

absl::Status BlockAttentionForward(const ExecutionContext& context, const BlockAttention& attention,
                                   const TensorView& out, const TensorView& logsumexp);
absl::Status BlockAttentionBackward(const ExecutionContext& context,
                                    const BlockAttention& attention,
                                    const BlockAttentionGradients& gradients);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_H_
