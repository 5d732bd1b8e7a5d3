// Gradients of the keys and values of block attention. A block of threads owns a piece of keys of
// one KV head and meets, in ascending order, every row that reads it: all rows from the piece's
// first position on, or the rows of the queries in the block's list of readers. Everything is
// transposed, keys as the rows of the products:
//   P' = exp(scale K Q' - logsumexp)   dV += P' dO   dS' = P' (V dO' - delta)   dK += scale dS' Q
// Sums over heads and queries stay in fp32 registers and are added to dk and dv once.
#include "kernels/base/status_macros.h"
#include "kernels/cuda/block_attention_gradients.cuh"
#include "kernels/cuda/block_attention_tiles.cuh"
#include "kernels/cuda/status.h"

namespace salamander::cuda {
namespace {

constexpr int kHalfRows = kTileRows / 2;  // rows whose weights are in registers at once
constexpr int kRowRing = 3;               // steps whose row tables are alive

// What a step needs of its rows. Rows that do not exist have no weight: 2^-infinity.
struct RowTable {
  int64_t index[kTileRows];    // in [T, H]; -1: no such row
  float logsumexp[kTileRows];  // in base 2
  float delta[kTileRows];
  int position[kTileRows];
};

template <int kD>
constexpr int kBackwardBytes =
    6 * SharedTile<kD>::Bytes(kPieceKeys) + kRowRing* static_cast<int>(sizeof(RowTable));

// The keys of a work item and the rows that read them.
struct KeyTile {
  int key_head;
  int begin, count;        // positions
  const int32_t* readers;  // queries; null: all queries from first_row / G on
  int64_t first_row, rows;

  __device__ KeyTile(const BackwardArgs& backward, const SegmentPlan& segment, int64_t item)
      : key_head(static_cast<int>(item % backward.attention.key_heads)) {
    const AttentionArgs& args = backward.attention;
    const int64_t pieces = PiecesOfBlock(args.block_size);
    const int64_t piece = item / args.key_heads, block = piece / pieces;
    const int64_t block_begin = block * args.block_size;
    const int64_t first = block_begin + piece % pieces * kPieceKeys;
    const int64_t end = min(block_begin + args.block_size, segment.key_count());
    begin = static_cast<int>(first);
    count = static_cast<int>(max(min(end - first, static_cast<int64_t>(kPieceKeys)), int64_t{0}));
    if (args.lists != nullptr) {
      const int64_t* const begins = backward.readers.begins + key_head * backward.readers.blocks +
                                    segment.first_block + block;
      readers = backward.readers.queries + begins[0];
      first_row = 0;
      rows = (begins[1] - begins[0]) * args.group;
    } else {
      readers = nullptr;
      first_row = max(first - segment.first_position, int64_t{0}) * args.group;
      rows = segment.query_count * args.group - first_row;
    }
  }
};

// By the first kTileRows threads.
__device__ void FillRowTable(const BackwardArgs& backward, const SegmentPlan& segment,
                             const KeyTile& tile, int64_t step, RowTable& table) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kTileRows) return;
  const AttentionArgs& args = backward.attention;
  const int64_t row = step * kTileRows + i;
  if (row >= tile.rows) {
    table.index[i] = -1;
    table.logsumexp[i] = INFINITY;
    table.delta[i] = 0.0F;
    table.position[i] = INT_MAX;
    return;
  }
  const int64_t place = (tile.first_row + row) / args.group;
  const int64_t member = tile.first_row + row - place * args.group;
  const int64_t query = tile.readers == nullptr ? place : tile.readers[place];
  const int64_t index = (segment.query_begin + query) * args.heads +
                        static_cast<int64_t>(tile.key_head) * args.group + member;
  table.index[i] = index;
  table.logsumexp[i] = backward.logsumexp[index] * kLog2E;
  table.delta[i] = backward.delta[index];
  table.position[i] = static_cast<int>(segment.first_position + query);
}

template <int kD>
__device__ void LoadTableRows(const AttentionArgs& args, const RowTable& table,
                              const BFloat16* source, const SharedTile<kD>& tile) {
  constexpr int kChunks = SharedTile<kD>::kChunks;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kChunks; i += kTileThreads) {
    const int64_t index = table.index[i / kChunks];
    tile.Fill(i / kChunks, i % kChunks, source + (index < 0 ? 0 : index) * args.head_dim,
              args.head_dim, index >= 0, args.is_aligned);
  }
}

// Adds a thread's columns of one of its two rows to the row in global memory.
template <int kD>
__device__ void AddRow(const float (&d)[kD / 8][4], int half, float factor,
                       const AttentionArgs& args, BFloat16* row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    const int column = i * 8 + lane % 4 * 2;
    if (column >= args.head_dim) continue;
    const float low = factor * d[i][2 * half], high = factor * d[i][2 * half + 1];
    if (args.is_aligned) {
      auto* const pair = reinterpret_cast<__nv_bfloat162*>(row + column);
      const float2 before = __bfloat1622float2(*pair);
      *pair = __floats2bfloat162_rn(before.x + low, before.y + high);
    } else {
      row[column] = __float2bfloat16(__bfloat162float(row[column]) + low);
      if (column + 1 < args.head_dim) {
        row[column + 1] = __float2bfloat16(__bfloat162float(row[column + 1]) + high);
      }
    }
  }
}

// Grid: one block per (segment, piece of keys, KV head); the first pieces, which most rows read,
// come first. Block: warp w owns keys 16 w to 16 w + 15 of the piece.
template <int kD>
__global__ void __launch_bounds__(kTileThreads, 2) BackwardKeysKernel(const BackwardArgs backward) {
  extern __shared__ __align__(128) char memory[];
  const AttentionArgs& args = backward.attention;
  const SegmentPlan segment = SegmentOfItem(args.segments, args.segment_count, blockIdx.x);
  const KeyTile tile(backward, segment, blockIdx.x - segment.first_item);
  if (tile.count == 0 || tile.rows <= 0) return;

  constexpr int kTileBytes = SharedTile<kD>::Bytes(kPieceKeys);
  const SharedTile<kD> keys(memory), values(memory + kTileBytes);
  const auto queries = [&](int stage) { return SharedTile<kD>(memory + (2 + stage) * kTileBytes); };
  const auto d_outs = [&](int stage) { return SharedTile<kD>(memory + (4 + stage) * kTileBytes); };
  auto* const tables = reinterpret_cast<RowTable*>(memory + 6 * kTileBytes);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp_key = static_cast<int>(threadIdx.x) / kWarp * 16;
  const int64_t steps = CeilDivide(tile.rows, kTileRows);

  const int64_t first_key = segment.key_begin + tile.begin;
  LoadKeys(args, tile.key_head, first_key, tile.count, args.k, keys);
  LoadKeys(args, tile.key_head, first_key, tile.count, args.v, values);
  FillRowTable(backward, segment, tile, 0, tables[0]);
  FillRowTable(backward, segment, tile, 1, tables[1]);
  __syncthreads();
  LoadTableRows(args, tables[0], args.q, queries(0));
  LoadTableRows(args, tables[0], backward.d_out, d_outs(0));
  CommitCopies();

  const float scale = args.scale * kLog2E;
  const int key_position = tile.begin + warp_key + lane / 4;  // of the thread's first row
  float dk[kD / 8][4], dv[kD / 8][4];
  SetZero(dk);
  SetZero(dv);
  for (int64_t step = 0; step < steps; ++step) {
    const int stage = static_cast<int>(step % 2);
    if (step + 1 < steps) {
      const RowTable& table = tables[(step + 1) % kRowRing];
      LoadTableRows(args, table, args.q, queries(stage ^ 1));
      LoadTableRows(args, table, backward.d_out, d_outs(stage ^ 1));
      FillRowTable(backward, segment, tile, step + 2, tables[(step + 2) % kRowRing]);
    }
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    const RowTable& table = tables[step % kRowRing];
    if (warp_key < tile.count) {
      // Positions ascend, so the first row tells whether a key lies after some row.
      const bool is_masked = table.position[0] < tile.begin + tile.count - 1;
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        const int first_row = half * kHalfRows;
        float weights[4][4], d_weights[4][4];
        SetZero(weights);
        SetZero(d_weights);
        MultiplyRows<kD, 2>(keys, warp_key, queries(stage), first_row, kHalfRows, weights);
        MultiplyRows<kD, 2>(values, warp_key, d_outs(stage), first_row, kHalfRows, d_weights);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = first_row + i * 8 + lane % 4 * 2;
          const float2 logsumexp = *reinterpret_cast<const float2*>(&table.logsumexp[column]);
          const float2 delta = *reinterpret_cast<const float2*>(&table.delta[column]);
          const int2 position = *reinterpret_cast<const int2*>(&table.position[column]);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const bool is_second = j % 2 == 1;
            float weight =
                Exp2(fmaf(weights[i][j], scale, -(is_second ? logsumexp.y : logsumexp.x)));
            if (is_masked &&
                (is_second ? position.y : position.x) < key_position + (j >= 2 ? 8 : 0)) {
              weight = 0.0F;
            }
            weights[i][j] = weight;
            d_weights[i][j] = weight * (d_weights[i][j] - (is_second ? delta.y : delta.x));
          }
        }
        MultiplyWeights<kD, 2>(weights, d_outs(stage), first_row, kHalfRows, dv);
        MultiplyWeights<kD, 2>(d_weights, queries(stage), first_row, kHalfRows, dk);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = warp_key + lane / 4 + 8 * half;
    if (key >= tile.count) continue;
    const int64_t row = ((first_key + key) * args.key_heads + tile.key_head) * args.head_dim;
    AddRow<kD>(dk, half, args.scale, args, backward.dk + row);
    AddRow<kD>(dv, half, 1.0F, args, backward.dv + row);
  }
}

}  // namespace

absl::Status LaunchBackwardKeys(const ExecutionContext& context, const BackwardArgs& args,
                                int64_t items) {
  RETURN_IF_ERROR(CheckGrid("attention backward", items));
  return ForTileColumns(args.attention.head_dim, [&]<int kD>() -> absl::Status {
    RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(
        BackwardKeysKernel<kD>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBackwardBytes<kD>));
    BackwardKeysKernel<kD><<<static_cast<unsigned>(items), kTileThreads, kBackwardBytes<kD>,
                             context.cuda->stream()>>>(args);
    RETURN_IF_LAUNCH_FAILED("BackwardKeysKernel");
    return absl::OkStatus();
  });
}

}  // namespace salamander::cuda
