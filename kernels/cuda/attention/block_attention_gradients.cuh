// The kernels of the backward of block attention and what they are given. The gradient of the
// queries and that of the keys and values recompute the weights each for itself, so that neither
// needs atomics: seven products instead of five.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_GRADIENTS_CUH_
#define KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_GRADIENTS_CUH_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/cuda/attention/block_attention_lists.h"
#include "kernels/cuda/attention/block_attention_tiles.cuh"

namespace salamander::cuda {

struct BackwardArgs {
  AttentionArgs attention;
  const BFloat16* d_out;   // [T, H, D]
  const float* logsumexp;  // [T, H]
  float* delta;            // [T, H] rowsum(dO O)
  BFloat16* dq;            // [T, H, D]
  BFloat16* dk;            // [Tk, Hkv, D]
  BFloat16* dv;            // [Tk, Hkv, D]
  BlockReaders readers;    // where there are lists
  float* part_sums;        // of tiles whose readers are cut into parts
};

// Fills `delta` for the rows of `queries` queries, those of all segments.
absl::Status LaunchDelta(const ExecutionContext& context, const BackwardArgs& args,
                         const BFloat16* out, int64_t queries);
// Requires: the segments' items are (row tile, KV head).
absl::Status LaunchBackwardQueries(const ExecutionContext& context, const BackwardArgs& args,
                                   int64_t items);
// Requires: the segments' items are (piece of a block, KV head), PiecesOfBlock() to a block.
absl::Status LaunchBackwardKeys(const ExecutionContext& context, BackwardArgs args, int64_t items);

// The same on Hopper, where HopperKeysServe: plans by itself, whatever the segments' items are.
bool HopperKeysServe(const ExecutionContext& context, const BlockAttention& attention,
                     const BackwardArgs& args);
absl::Status HopperBackwardKeys(const ExecutionContext& context, const BlockAttention& attention,
                                const BlockAttentionGradients& gradients, BackwardArgs args);

// A block's keys in pieces of up to kPieceKeys.
__host__ __device__ inline int64_t PiecesOfBlock(int64_t block_size) {
  return CeilDivide(block_size, kPieceKeys);
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_GRADIENTS_CUH_
