// Forward of block attention on Hopper: online softmax over the pieces of keys that a row tile
// reads (block_attention_softmax.cuh), by the warpgroups and the ring of sparse_tiles_hopper.cuh.
//
// Tile: two computing warpgroups, 128 rows of one KV head. Each takes a piece of 64 keys at a time:
// S = Q K' with Q as left operand in registers, then weights P, then O += P V with P as left
// operand. A warp none of whose rows reads the piece takes part in the products with weights of
// zero and has no softmax.
//
// Pipeline of a warpgroup (ReadPieces): the softmax of a piece runs under P V of the one before.
//
// Registers of a computing thread, for kD = 128: Q 32, O 64, S 32, P 16 words. Shared memory: seven
// stages of 32 KiB.
#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/block_attention_hopper.cuh"
#include "kernels/cuda/attention/block_attention_softmax.cuh"
#include "kernels/cuda/attention/sparse_tiles_hopper.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

constexpr int kStages = 7;

template <int kD>
using Ring = PieceRing<kD, kStages>;

struct HopperForwardArgs {
  SparseTileArgs tiles;
  BFloat16* out;     // [T, H, D]
  float* logsumexp;  // [T, H] or null
};

// A computing warpgroup's softmax over the pieces of a tile.
template <int kD>
__device__ void SumTile(const Ring<kD>& ring, int warpgroup, const ThreadRows& rows,
                        const uint32_t (&queries)[kD / 16][4], float scale, RingPlace& place,
                        RowState& state, float (&out)[kD / 8][4]) {
  float scores[kPieceKeys / 8][4], factor[2];
  const auto multiply = [&](int stage) { MultiplyByRows<kD>(scores, queries, ring.keys(stage)); };
  const auto weigh = [&](const Piece& piece) {
    HoldProduct(scores);
    const int read[2] = {rows.Read(piece, 0), rows.Read(piece, 1)};
    if (__any_sync(kFullMask, read[0] > 0 || read[1] > 0)) {
      const bool is_masked = !__all_sync(kFullMask, read[0] == kPieceKeys && read[1] == kPieceKeys);
      Soften(scores, read, is_masked, scale, state, factor);
    } else {
      SetZero(scores);
      factor[0] = factor[1] = 1.0F;
    }
  };
  const auto settle = [&](uint32_t(&weights)[kPieceKeys / 16][4]) {
    Rescale(factor, out);
    AsLeftOperands(scores, weights);
  };
  ReadPieces<kD, kStages>(
      ring, warpgroup, place, [&](int stage) { return ring.values(stage); }, multiply, weigh,
      settle, out);
}

template <int kD>
__device__ void StoreTile(const HopperForwardArgs& forward, int item, int warpgroup,
                          RowState& state, const float (&out)[kD / 8][4]) {
  const AttentionArgs& args = forward.tiles.attention;
  const SparseTile tile(forward.tiles, item);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float& denominator = state.denominator[half];
    denominator += __shfl_xor_sync(kFullMask, denominator, 1);
    denominator += __shfl_xor_sync(kFullMask, denominator, 2);
    const int row = ThreadRow(warpgroup, half);
    if (row >= tile.rows.count) continue;
    const int64_t index = tile.rows.Index(args, tile.segment, row);
    if (forward.logsumexp != nullptr && threadIdx.x % 4 == 0) {
      forward.logsumexp[index] = state.maximum[half] * kLn2 + logf(denominator);
    }
    StoreRow<kD>(out, half, 1.0F / denominator, args, forward.out + index * kD);
  }
}

// Grid: as many blocks as the device runs at a time; each takes every gridDim.x-th item.
template <int kD>
__global__ void __launch_bounds__(kSparseThreads, 1)
    HopperForwardKernel(const __grid_constant__ HopperForwardArgs forward) {
  extern __shared__ __align__(1024) char memory[];
  const SparseTileArgs& tiles = forward.tiles;
  const AttentionArgs& args = tiles.attention;
  const Ring<kD> ring(memory);
  if (threadIdx.x == 0) ring.Init();
  __syncthreads();
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  RingPlace place;
  if (warpgroup < 0) {
    GiveRegisters<kLoadRegisters>();
    if (threadIdx.x >= kWarp) return;
    for (int item = blockIdx.x; item < tiles.items(); item += gridDim.x) {
      LoadPieces<kD, kStages>(tiles, SparseTile(tiles, item), ring, place);
    }
  } else {
    TakeRegisters<kComputeRegisters>();
    const float scale = SoftmaxScale(args.scale);
    for (int item = blockIdx.x; item < tiles.items(); item += gridDim.x) {
      const ThreadRows rows(tiles, item, warpgroup);
      uint32_t queries[kD / 16][4];
      LoadLeftRows<kD>(tiles, item, warpgroup, args.q, queries);
      if (args.scale < 0.0F) NegateLeft(queries);
      RowState state;
      float out[kD / 8][4];
      SetZero(out);
      SumTile<kD>(ring, warpgroup, rows, queries, scale, place, state, out);
      StoreTile<kD>(forward, item, warpgroup, state, out);
    }
  }
}

}  // namespace

bool HopperServes(const ExecutionContext& context, const BlockAttention& attention,
                  const AttentionArgs& args) {
  return context.cuda->has_warpgroups() && args.is_aligned &&
         (args.head_dim == 64 || args.head_dim == 128) && attention.block_size % kPieceKeys == 0 &&
         args.group >= kLeastGroup;
}

absl::Status HopperForward(const ExecutionContext& context, const BlockAttention& attention,
                           const AttentionArgs& args, const WidePlan& plan, BFloat16* out,
                           float* logsumexp) {
  HopperForwardArgs forward = {.out = out, .logsumexp = logsumexp};
  ASSIGN_OR_RETURN(forward.tiles, MakeSparseTileArgs(context, attention, args, plan));
  const int blocks = std::min(forward.tiles.items(), context.cuda->multiprocessors());
  return ForSparseColumns(args.head_dim, [&]<int kD>() -> absl::Status {
    return Launch(context, "HopperForwardKernel", HopperForwardKernel<kD>,
                  {.grid = {blocks}, .block = kSparseThreads, .shared_bytes = Ring<kD>::kBytes},
                  forward);
  });
}

}  // namespace salamander::cuda
