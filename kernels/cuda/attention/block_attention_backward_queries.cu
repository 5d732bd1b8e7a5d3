// Gradient of the queries of block attention, over the pieces that the forward walked through:
//   P = exp(scale S - logsumexp)   dS = P (dO V' - delta)   dQ = scale dS K
// with S = Q K' again and delta = rowsum(dO O), which a small kernel leaves for both gradients.
#include <vector>

#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/launch.h"

namespace salamander::cuda {
namespace {

constexpr int kDeltaLanes = static_cast<int>(kWidestHead) / kLanes;
constexpr int kDeltaRows = 16;  // of a block

// Keys and values in two stages, queries and output gradients.
template <int kD>
constexpr int kBackwardBytes = 6 * SharedTile<kD>::Bytes(kPieceKeys);

// Grid: one block per 16 (query, head) of the segments' queries in order. Block: half a warp each,
// eight columns to a lane.
__global__ void DeltaKernel(const AttentionArgs args, const BFloat16* out, const BFloat16* d_out,
                            float* delta, int64_t rows, bool is_aligned) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kDeltaRows + threadIdx.x / kDeltaLanes;
  const bool is_row = row < rows;
  const SegmentPlan segment = EntryOf(args.segments, args.segment_count,
                                      is_row ? row / args.heads : 0, &SegmentPlan::first_query);
  const int64_t index =
      (segment.query_begin - segment.first_query) * static_cast<int64_t>(args.heads) + row;
  const int column = static_cast<int>(threadIdx.x) % kDeltaLanes * kLanes;
  float sum = 0.0F;
  if (is_row && column < args.head_dim) {
    const int64_t begin = index * args.head_dim + column, end = (index + 1) * args.head_dim;
    float left[kLanes], right[kLanes];
    Unpack(LoadPacked(out, begin, end, is_aligned), left);
    Unpack(LoadPacked(d_out, begin, end, is_aligned), right);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) sum += left[i] * right[i];
  }
#pragma unroll
  for (int offset = kDeltaLanes / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kFullMask, sum, offset);
  }
  if (is_row && column == 0) delta[index] = sum;
}

// Grid: one block per (segment, row tile, KV head), the last tiles of a segment first. Block: warp
// w owns rows 16 w to 16 w + 15.
template <int kD>
__global__ void __launch_bounds__(kTileThreads, 2)
    BackwardQueriesKernel(const BackwardArgs backward) {
  extern __shared__ __align__(128) char memory[];
  const AttentionArgs& args = backward.attention;
  const SegmentPlan segment = SegmentOfItem(args.segments, args.segment_count, blockIdx.x);
  const int64_t local = blockIdx.x - segment.first_item;
  const int64_t tiles = CeilDivide(segment.query_count * args.group, kTileRows);
  const RowTile tile(args, segment, static_cast<int>(local % args.key_heads),
                     tiles - 1 - local / args.key_heads);

  constexpr int kTileBytes = SharedTile<kD>::Bytes(kPieceKeys);
  const auto keys = [&](int stage) { return SharedTile<kD>(memory + stage * kTileBytes); };
  const auto values = [&](int stage) { return SharedTile<kD>(memory + (2 + stage) * kTileBytes); };
  const SharedTile<kD> queries(memory + 4 * kTileBytes), d_outs(memory + 5 * kTileBytes);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * 16;

  LoadRows(args, segment, tile, args.q, queries);
  LoadRows(args, segment, tile, backward.d_out, d_outs);
  BlockWalk walk(args, segment, tile, 0);
  Piece next;
  bool has_next = walk.Next(next);
  const auto load = [&](const Piece& piece, int stage) {
    const int64_t first = segment.key_begin + piece.begin;
    LoadKeys(args, tile.key_head, first, piece.count, args.k, keys(stage));
    LoadKeys(args, tile.key_head, first, piece.count, args.v, values(stage));
  };
  if (has_next) load(next, 0);
  CommitCopies();

  int64_t position[2], index[2];
  int query[2];
  bool is_row[2];
  float logsumexp[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    is_row[half] = row < tile.count;
    index[half] = tile.Index(args, segment, is_row[half] ? row : 0);
    query[half] = is_row[half] ? tile.Query(args, row) - tile.first_query : 0;
    position[half] = is_row[half] ? segment.first_position + tile.first_query + query[half] : -1;
    logsumexp[half] = backward.logsumexp[index[half]] * kLog2E;
    delta[half] = backward.delta[index[half]];
  }

  const float scale = args.scale * kLog2E;
  float dq[kD / 8][4];
  SetZero(dq);
  for (int stage = 0; has_next; stage ^= 1) {
    const Piece piece = next;
    has_next = walk.Next(next);
    if (has_next) load(next, stage ^ 1);
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    const int read[2] = {ReadKeys(piece, query[0], position[0]),
                         ReadKeys(piece, query[1], position[1])};
    if (__any_sync(kFullMask, read[0] > 0 || read[1] > 0)) {
      float scores[8][4], d_weights[8][4];
      SetZero(scores);
      SetZero(d_weights);
      MultiplyRows<kD, 4>([&](int step, uint32_t(&a)[4]) { queries.LoadLeft(warp_row, step, a); },
                          keys(stage), 0, piece.count, scores);
      MultiplyRows<kD, 4>([&](int step, uint32_t(&a)[4]) { d_outs.LoadLeft(warp_row, step, a); },
                          values(stage), 0, piece.count, d_weights);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int half = j / 2;
          const bool is_read = i * 8 + lane % 4 * 2 + j % 2 < read[half];
          const float weight = is_read ? Exp2(fmaf(scores[i][j], scale, -logsumexp[half])) : 0.0F;
          scores[i][j] = weight * (d_weights[i][j] - delta[half]);
        }
      }
      MultiplyWeights<kD, 4>(scores, keys(stage), 0, piece.count, dq);
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!is_row[half]) continue;
    StoreRow<kD>(dq, half, args.scale, args, backward.dq + index[half] * args.head_dim);
  }
}

}  // namespace

absl::Status LaunchDelta(const ExecutionContext& context, const BackwardArgs& args,
                         const BFloat16* out, int64_t queries) {
  const int64_t rows = queries * args.attention.heads;
  return Launch(context, "DeltaKernel", DeltaKernel,
                {.grid = {CeilDivide(rows, kDeltaRows)}, .block = kDeltaRows * kDeltaLanes},
                args.attention, out, args.d_out, args.delta, rows,
                args.attention.is_aligned && AreAligned({out}));
}

absl::Status LaunchBackwardQueries(const ExecutionContext& context, const BackwardArgs& args,
                                   int64_t items) {
  return ForTileColumns(args.attention.head_dim, [&]<int kD>() -> absl::Status {
    return Launch(context, "BackwardQueriesKernel", BackwardQueriesKernel<kD>,
                  {.grid = {items}, .block = kTileThreads, .shared_bytes = kBackwardBytes<kD>},
                  args);
  });
}

}  // namespace salamander::cuda
