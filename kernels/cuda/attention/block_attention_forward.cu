// Forward of block attention: online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867) over
// the pieces of keys of a row tile, in base 2, from a maximum of -infinity. Queries, scores and
// outputs of a tile stay in registers; keys and values pass through two stages of shared memory.
#include <algorithm>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/block_attention_hopper.cuh"
#include "kernels/cuda/attention/block_attention_softmax.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

// Parts of a lone tile that reaches far back (decoding): enough of them to fill a device, each long
// enough to hide the merge.
constexpr int kPartKeys = 512;
constexpr int kPartEntries = 8;

struct ForwardArgs {
  AttentionArgs attention;
  BFloat16* out;     // [T, H, D]
  float* logsumexp;  // [T, H] or null
  // Of tiles in parts: unnormalised outputs [part rows, D] and (maximum, denominator) [part rows].
  float* part_outs;
  float2* part_sums;
};

// Where row `row` of a part of a lone tile is stored.
__device__ int64_t PartRow(const SegmentPlan& segment, const RowTile& tile, int part, int row) {
  const int64_t parts_before = static_cast<int64_t>(tile.key_head) * segment.parts + part;
  return segment.first_part_row + parts_before * tile.count + row;
}

template <int kD>
constexpr int kForwardBytes = 4 * SharedTile<kD>::Bytes(kPieceKeys);

__device__ void Negate(float (&scores)[8][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) scores[i][j] = -scores[i][j];
  }
}

// Grid: one block per (segment, row tile, KV head, part); in a segment the last tiles, which read
// most, come first. Block: warp w owns rows 16 w to 16 w + 15 of the tile.
template <int kD>
__global__ void __launch_bounds__(kTileThreads, 2) BlockForwardKernel(const ForwardArgs forward) {
  extern __shared__ __align__(128) char memory[];
  const AttentionArgs& args = forward.attention;
  const SegmentPlan segment = SegmentOfItem(args.segments, args.segment_count, blockIdx.x);
  const int64_t local = blockIdx.x - segment.first_item;
  const int part = static_cast<int>(local % segment.parts);
  const int64_t tiles = CeilDivide(segment.query_count * args.group, kTileRows);
  const int head = static_cast<int>(local / segment.parts % args.key_heads);
  const RowTile tile(args, segment, head, tiles - 1 - local / segment.parts / args.key_heads);

  constexpr int kTileBytes = SharedTile<kD>::Bytes(kPieceKeys);
  const auto keys = [&](int stage) { return SharedTile<kD>(memory + stage * kTileBytes); };
  const auto values = [&](int stage) { return SharedTile<kD>(memory + (2 + stage) * kTileBytes); };
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * 16;

  // Queries pass through the second stage into registers.
  LoadRows(args, segment, tile, args.q, keys(1));
  CommitCopies();
  BlockWalk walk(args, segment, tile, part);
  Piece next;
  bool has_next = walk.Next(next);
  const auto load = [&](const Piece& piece, int stage) {
    const int64_t first = segment.key_begin + piece.begin;
    LoadKeys(args, tile.key_head, first, piece.count, args.k, keys(stage));
    LoadKeys(args, tile.key_head, first, piece.count, args.v, values(stage));
  };
  if (has_next) load(next, 0);
  CommitCopies();
  WaitForCopies<1>();
  __syncthreads();
  uint32_t queries[kD / 16][4];
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) keys(1).LoadLeft(warp_row, step, queries[step]);
  __syncthreads();

  int64_t position[2];
  int query[2];
  bool is_row[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    is_row[half] = row < tile.count;
    query[half] = is_row[half] ? tile.Query(args, row) - tile.first_query : 0;
    position[half] = is_row[half] ? segment.first_position + tile.first_query + query[half] : -1;
  }

  const float scale = SoftmaxScale(args.scale);
  RowState state;
  float out[kD / 8][4];
  SetZero(out);
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
      float scores[8][4];
      SetZero(scores);
      MultiplyRows<kD, 4>(
          [&](int step, uint32_t(&a)[4]) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = queries[step][i];
          },
          keys(stage), 0, piece.count, scores);
      if (args.scale < 0.0F) Negate(scores);
      const bool is_masked = !__all_sync(kFullMask, read[0] == kPieceKeys && read[1] == kPieceKeys);
      float factor[2];
      Soften(scores, read, is_masked, scale, state, factor);
      Rescale(factor, out);
      MultiplyWeights<kD, 4>(scores, values(stage), 0, piece.count, out);
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float& denominator = state.denominator[half];
    denominator += __shfl_xor_sync(kFullMask, denominator, 1);
    denominator += __shfl_xor_sync(kFullMask, denominator, 2);
    const int row = warp_row + lane / 4 + 8 * half;
    if (!is_row[half]) continue;
    if (segment.first_part_row >= 0) {
      const int64_t slot = PartRow(segment, tile, part, row);
      if (lane % 4 == 0) forward.part_sums[slot] = {state.maximum[half], denominator};
#pragma unroll
      for (int i = 0; i < kD / 8; ++i) {
        const int column = i * 8 + lane % 4 * 2;
        for (int j = 0; j < 2; ++j) {
          if (column + j < args.head_dim) {
            forward.part_outs[slot * args.head_dim + column + j] = out[i][2 * half + j];
          }
        }
      }
      continue;
    }
    const int64_t index = tile.Index(args, segment, row);
    if (forward.logsumexp != nullptr && lane % 4 == 0) {
      forward.logsumexp[index] = state.maximum[half] * kLn2 + logf(denominator);
    }
    StoreRow<kD>(out, half, 1.0F / denominator, args, forward.out + index * args.head_dim);
  }
}

// Merges the parts of lone tiles in order. Grid: one block per (segment in parts, row of its tile,
// KV head). Block: one thread per column of the head.
__global__ void MergePartsKernel(const ForwardArgs forward, const SegmentPlan* split) {
  const AttentionArgs& args = forward.attention;
  const SegmentPlan segment = split[blockIdx.x];
  const RowTile tile(args, segment, static_cast<int>(blockIdx.z), 0);
  const int row = static_cast<int>(blockIdx.y);
  if (row >= tile.count) return;
  float maximum = -INFINITY;
  for (int part = 0; part < segment.parts; ++part) {
    maximum = fmaxf(maximum, forward.part_sums[PartRow(segment, tile, part, row)].x);
  }
  float denominator = 0.0F;
  for (int part = 0; part < segment.parts; ++part) {
    const float2 sums = forward.part_sums[PartRow(segment, tile, part, row)];
    denominator += Exp2(sums.x - maximum) * sums.y;
  }
  const int64_t index = tile.Index(args, segment, row);
  if (forward.logsumexp != nullptr && threadIdx.x == 0) {
    forward.logsumexp[index] = maximum * kLn2 + logf(denominator);
  }
  for (int column = static_cast<int>(threadIdx.x); column < args.head_dim;
       column += static_cast<int>(blockDim.x)) {
    float sum = 0.0F;
    for (int part = 0; part < segment.parts; ++part) {
      const int64_t slot = PartRow(segment, tile, part, row);
      sum += Exp2(forward.part_sums[slot].x - maximum) *
             forward.part_outs[slot * args.head_dim + column];
    }
    forward.out[index * args.head_dim + column] = __float2bfloat16(sum / denominator);
  }
}

struct ForwardPlan {
  std::vector<SegmentPlan> segments, split;
  int64_t items = 0;
  int64_t part_rows = 0;       // of all tiles in parts
  int64_t most_tile_rows = 0;  // of one
  WidePlan wide;               // segments that Hopper's kernel takes
};

ForwardPlan PlanForward(const BlockAttention& attention, const AttentionArgs& args,
                        bool has_hopper) {
  ForwardPlan plan;
  for (const Segment& segment : attention.segments) {
    const int64_t tiles = CeilDivide(segment.query_count * args.group, kTileRows);
    SegmentPlan entry = {segment.query_begin, segment.query_count, segment.key_begin,
                         segment.first_position};
    if (has_hopper && tiles > 1) {
      plan.wide.Add(entry, args.group);
      continue;
    }
    entry.first_item = plan.items;
    if (tiles == 1) {
      // Lists of several queries are walked together, from their starts.
      const bool has_lists = args.lists != nullptr;
      entry.part_size = has_lists ? kPartEntries : kPartKeys;
      const int64_t size = has_lists ? args.list_length : segment.key_count();
      if (!has_lists || segment.query_count == 1) {
        entry.parts = static_cast<int32_t>(CeilDivide(size, entry.part_size));
      }
    }
    if (entry.parts > 1) {
      const int64_t tile_rows = segment.query_count * args.group;
      entry.first_part_row = plan.part_rows;
      plan.part_rows += int64_t{entry.parts} * args.key_heads * tile_rows;
      plan.most_tile_rows = std::max(plan.most_tile_rows, tile_rows);
      plan.split.push_back(entry);
    }
    plan.segments.push_back(entry);
    plan.items += tiles * args.key_heads * entry.parts;
  }
  return plan;
}

}  // namespace

absl::Status BlockAttentionForward(const ExecutionContext& context, const BlockAttention& attention,
                                   const TensorView& out, const TensorView& logsumexp) {
  RETURN_IF_ERROR(CheckHeadDim("attention", attention.q.dim(2)));
  const ArenaScope scope(*context.arena);
  ForwardArgs args = {};
  args.attention = MakeAttentionArgs(attention);
  args.out = BFloat16Data(out);
  args.attention.is_aligned = args.attention.is_aligned && AreAligned({args.out});
  args.logsumexp = logsumexp.empty() ? nullptr : logsumexp.data<float>();
  const bool has_hopper = HopperServes(context, attention, args.attention);
  const ForwardPlan plan = PlanForward(attention, args.attention, has_hopper);
  if (plan.wide.row_tiles > 0) {
    RETURN_IF_ERROR(
        HopperForward(context, attention, args.attention, plan.wide, args.out, args.logsumexp));
  }
  if (plan.items == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(args.attention.segments,
                   UploadArray<SegmentPlan>(context, absl::MakeConstSpan(plan.segments)));
  args.attention.segment_count = static_cast<int>(plan.segments.size());
  const SegmentPlan* split = nullptr;
  if (!plan.split.empty()) {
    ASSIGN_OR_RETURN(split, UploadArray<SegmentPlan>(context, absl::MakeConstSpan(plan.split)));
    args.part_outs = context.arena->Array<float>(plan.part_rows * args.attention.head_dim);
    args.part_sums = context.arena->Array<float2>(plan.part_rows);
  }
  RETURN_IF_ERROR(ForTileColumns(args.attention.head_dim, [&]<int kD>() -> absl::Status {
    return Launch(context, "BlockForwardKernel", BlockForwardKernel<kD>,
                  {.grid = {plan.items}, .block = kTileThreads, .shared_bytes = kForwardBytes<kD>},
                  args);
  }));
  if (plan.split.empty()) return absl::OkStatus();
  const Grid grid = {static_cast<int64_t>(plan.split.size()), plan.most_tile_rows,
                     args.attention.key_heads};
  return Launch(context, "MergePartsKernel", MergePartsKernel, {.grid = grid, .block = 128}, args,
                split);
}

}  // namespace salamander::cuda
