// Gradient of the queries of block attention on Hopper, over the pieces that the forward read, by
// the warpgroups and the ring of sparse_tiles_hopper.cuh:
//   P = exp(scale S - logsumexp)   dS = P (dO V' - delta)   dQ = scale dS K     with S = Q K'
//
// Tile: two computing warpgroups, 128 rows of one KV head. Each takes a piece of 64 keys at a time:
// S with Q as left operand in registers, dO V' with dO in shared memory, then dS, then dQ += dS K
// with dS as left operand in registers. A warp none of whose rows reads the piece takes part in the
// products with dS of zero. Pipeline (ReadPieces): dS of a piece is made under dS K of the one
// before.
//
// Registers of a computing thread, for kD = 128: Q 32, dQ 64, S 32, dO V' 32, dS 16 words. Shared
// memory: six stages of 32 KiB, dO of both warpgroups 16 KiB each.
#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_hopper.cuh"
#include "kernels/cuda/attention/sparse_tiles_hopper.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

constexpr int kStages = 6;

template <int kD>
using Ring = PieceRing<kD, kStages>;

// Of the rows of a warpgroup, in panels.
template <int kD>
constexpr int kLeftBytes = kTileRows* kD * 2;
template <int kD>
constexpr int kBytes = kComputingWarpgroups* kLeftBytes<kD> + Ring<kD>::kBytes;

struct HopperQueriesArgs {
  SparseTileArgs tiles;
  const BFloat16* d_out;   // [T, H, D]
  const float* logsumexp;  // [T, H]
  const float* delta;      // [T, H]
  BFloat16* dq;            // [T, H, D]
  float base2_scale;       // of scores; a constant of the launch takes no register
};

// By a computing warpgroup: its rows of `source` [T, H, D] to panels at `memory`, zeros beyond the
// tile.
template <int kD>
__device__ void ShareLeftRows(const SparseTileArgs& args, int item, int warpgroup,
                              const BFloat16* source, char* memory) {
  constexpr int kChunks = kD / kLanes;
  constexpr int kPanelChunks = kPanelColumns / kLanes;
  const SparseTile tile(args, item);
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int chunk = thread % kChunks;
  char* const panel = memory + chunk / kPanelChunks * kTileRows * kPanelRowBytes;
  NamedBarrier(1 + warpgroup, kWarpgroup);  // all have ended their products with the rows before
#pragma unroll 4
  for (int i = thread / kChunks; i < kTileRows; i += kWarpgroup / kChunks) {
    const int row = warpgroup * kTileRows + i;
    Packed values = {0, 0, 0, 0};
    if (row < tile.rows.count) {
      const int64_t index = tile.rows.Index(args.attention, tile.segment, row);
      values = *reinterpret_cast<const Packed*>(source + index * kD + chunk * kLanes);
    }
    *reinterpret_cast<Packed*>(panel + ChunkOffset<kPanelColumns>(i, chunk % kPanelChunks)) =
        values;
  }
  FenceSharedForProducts();
  NamedBarrier(1 + warpgroup, kWarpgroup);
}

// Statistics of a thread's two rows, the logsumexp in base 2.
struct RowStatistics {
  float logsumexp[2], delta[2];

  __device__ RowStatistics(const HopperQueriesArgs& args, int item, int warpgroup) {
    const SparseTile tile(args.tiles, item);
    for (int half = 0; half < 2; ++half) {
      const int row = ThreadRow(warpgroup, half);
      const int64_t index =
          tile.rows.Index(args.tiles.attention, tile.segment, row < tile.rows.count ? row : 0);
      logsumexp[half] = args.logsumexp[index] * kLog2E;
      delta[half] = args.delta[index];
    }
  }
};

// Turns products S of the thread's rows, which read the first keys[] of the piece, into dS.
// `d_weights` is dO V'.
__device__ void Differentiate(float (&scores)[kPieceKeys / 8][4],
                              const float (&d_weights)[kPieceKeys / 8][4], const int (&keys)[2],
                              float scale, const RowStatistics& rows) {
#pragma unroll
  for (int i = 0; i < kPieceKeys / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float weight = Exp2(fmaf(scores[i][j], scale, -rows.logsumexp[j / 2]));
      scores[i][j] = weight * (d_weights[i][j] - rows.delta[j / 2]);
    }
  }
  if (__all_sync(kFullMask, keys[0] == kPieceKeys && keys[1] == kPieceKeys)) return;
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < kPieceKeys / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i * 8 + column + j % 2 >= keys[j / 2]) scores[i][j] = 0.0F;
    }
  }
}

// A computing warpgroup's gradient from the pieces of a tile. `d_outs`: panels.
template <int kD>
__device__ void SumTile(const Ring<kD>& ring, int warpgroup, const ThreadRows& rows,
                        const RowStatistics& statistics, const uint32_t (&queries)[kD / 16][4],
                        uint32_t d_outs, float scale, RingPlace& place, float (&dq)[kD / 8][4]) {
  float scores[kPieceKeys / 8][4], d_weights[kPieceKeys / 8][4];
  const auto multiply = [&](int stage) {
    MultiplyByRows<kD>(scores, queries, ring.keys(stage));
    MultiplyByRows<kD>(d_weights, d_outs, ring.values(stage));
  };
  const auto weigh = [&](const Piece& piece) {
    HoldProduct(scores);
    HoldProduct(d_weights);
    const int read[2] = {rows.Read(piece, 0), rows.Read(piece, 1)};
    if (__any_sync(kFullMask, read[0] > 0 || read[1] > 0)) {
      Differentiate(scores, d_weights, read, scale, statistics);
    } else {
      SetZero(scores);
    }
  };
  const auto settle = [&](uint32_t(&weights)[kPieceKeys / 16][4]) {
    AsLeftOperands(scores, weights);
  };
  ReadPieces<kD, kStages>(
      ring, warpgroup, place, [&](int stage) { return ring.keys(stage); }, multiply, weigh, settle,
      dq);
}

template <int kD>
__device__ void StoreTile(const HopperQueriesArgs& args, int item, int warpgroup,
                          const float (&dq)[kD / 8][4]) {
  const AttentionArgs& attention = args.tiles.attention;
  const SparseTile tile(args.tiles, item);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = ThreadRow(warpgroup, half);
    if (row >= tile.rows.count) continue;
    const int64_t index = tile.rows.Index(attention, tile.segment, row);
    StoreRow<kD>(dq, half, attention.scale, attention, args.dq + index * kD);
  }
}

// Grid: as many blocks as the device runs at a time; each takes every gridDim.x-th item.
template <int kD>
__global__ void __launch_bounds__(kSparseThreads, 1)
    HopperQueriesKernel(const __grid_constant__ HopperQueriesArgs args) {
  extern __shared__ __align__(1024) char memory[];
  const SparseTileArgs& tiles = args.tiles;
  const Ring<kD> ring(memory + kComputingWarpgroups * kLeftBytes<kD>);
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
    for (int item = blockIdx.x; item < tiles.items(); item += gridDim.x) {
      const int group = Anew(warpgroup);
      char* const d_outs = memory + group * kLeftBytes<kD>;
      uint32_t queries[kD / 16][4];
      LoadLeftRows<kD>(tiles, item, group, tiles.attention.q, queries);
      ShareLeftRows<kD>(tiles, item, group, args.d_out, d_outs);
      const ThreadRows rows(tiles, item, group);
      const RowStatistics statistics(args, item, group);
      float dq[kD / 8][4];
      SetZero(dq);
      SumTile<kD>(ring, group, rows, statistics, queries, SharedAddress(d_outs), args.base2_scale,
                  place, dq);
      StoreTile<kD>(args, item, Anew(group), dq);
    }
  }
}

}  // namespace

absl::Status HopperBackwardQueries(const ExecutionContext& context, const BlockAttention& attention,
                                   const BackwardArgs& args, const WidePlan& plan) {
  if (plan.row_tiles == 0) return absl::OkStatus();
  HopperQueriesArgs queries = {.d_out = args.d_out,
                               .logsumexp = args.logsumexp,
                               .delta = args.delta,
                               .dq = args.dq,
                               .base2_scale = args.attention.scale * kLog2E};
  ASSIGN_OR_RETURN(queries.tiles, MakeSparseTileArgs(context, attention, args.attention, plan));
  const int blocks = std::min(queries.tiles.items(), context.cuda->multiprocessors());
  return ForSparseColumns(args.attention.head_dim, [&]<int kD>() -> absl::Status {
    return Launch(context, "HopperQueriesKernel", HopperQueriesKernel<kD>,
                  {.grid = {blocks}, .block = kSparseThreads, .shared_bytes = kBytes<kD>}, queries);
  });
}

}  // namespace salamander::cuda
