// Gradients of the keys and values of block attention. A block of threads owns a piece of keys of
// one KV head and meets, in ascending order, every row that reads it: all rows from the piece's
// first position on, or the rows of the queries in the block's list of readers. Everything is
// transposed, keys as the rows of the products:
//   P' = exp(scale K Q' - logsumexp)   dV += P' dO   dS' = P' (V dO' - delta)   dK += scale dS' Q
// Sums over heads and queries stay in fp32 registers and are added to dk and dv once.
#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/launch.h"

namespace salamander::cuda {
namespace {

constexpr int kHalfRows = kTileRows / 2;  // rows whose weights are in registers at once
constexpr int kRowRing = 3;               // steps whose row tables are alive

// What a step needs of its rows. Rows that do not exist have no weight: 2^-infinity.
struct RowTable {
  int64_t offset[kTileRows];   // in [T, H, D]; -1: no such row
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
  int64_t parts = 1;       // that the readers are cut into
  int64_t first_slot = 0;  // of the parts' sums, where there are several

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
      const int64_t index = key_head * backward.readers.blocks + segment.first_block + block;
      const int64_t list = backward.readers.begins[index];
      const int64_t queries = backward.readers.begins[index + 1] - list;
      readers = backward.readers.queries + list;
      first_row = 0;
      rows = queries * args.group;
      if (queries > backward.readers.part_queries) {
        parts = CeilDivide(queries, backward.readers.part_queries);
        first_slot = backward.readers.first_parts[index] * pieces + piece % pieces * parts;
      }
    } else {
      readers = nullptr;
      first_row = max(first - segment.first_position, int64_t{0}) * args.group;
      rows = segment.query_count * args.group - first_row;
    }
  }
};

// Of a tile in parts only this one's rows.
__device__ void TakePart(const BackwardArgs& backward, int64_t part, KeyTile& tile) {
  if (tile.parts == 1) {
    if (part > 0) tile.rows = 0;
    return;
  }
  const int64_t part_rows = backward.readers.part_queries * backward.attention.group;
  tile.first_row = part * part_rows;
  tile.rows = min(tile.rows - tile.first_row, part_rows);
}

// By the first kTileRows threads.
__device__ void FillRowTable(const BackwardArgs& backward, const SegmentPlan& segment,
                             const KeyTile& tile, int64_t step, RowTable& table) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kTileRows) return;
  const AttentionArgs& args = backward.attention;
  const int64_t row = step * kTileRows + i;
  if (row >= tile.rows) {
    table.offset[i] = -1;
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
  table.offset[i] = index * args.head_dim;
  table.logsumexp[i] = backward.logsumexp[index] * kLog2E;
  table.delta[i] = backward.delta[index];
  table.position[i] = static_cast<int>(segment.first_position + query);
}

template <int kD>
__device__ void LoadTableRows(const AttentionArgs& args, const RowTable& table,
                              const BFloat16* source, const SharedTile<kD>& tile) {
  FillTile(args, source, tile, [&](int row) { return table.offset[row]; });
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

// The sums of a part of a tile, as a block's threads hold them: [dk or dv, accumulator, thread].
template <int kD>
constexpr int64_t kSlotFloats = int64_t{2} * (kD / 2) * kTileThreads;

template <int kD>
__device__ void StorePart(const float (&d)[kD / 8][4], float* part) {
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) part[(i * 4 + j) * kTileThreads + threadIdx.x] = d[i][j];
  }
}

template <int kD>
__device__ void AddPart(const float* part, float (&d)[kD / 8][4]) {
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) d[i][j] += part[(i * 4 + j) * kTileThreads + threadIdx.x];
  }
}

template <int kD>
__device__ void AddToKeys(const BackwardArgs& backward, const SegmentPlan& segment,
                          const KeyTile& tile, const float (&dk)[kD / 8][4],
                          const float (&dv)[kD / 8][4]) {
  const AttentionArgs& args = backward.attention;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = static_cast<int>(threadIdx.x) / kWarp * 16 +
                    static_cast<int>(threadIdx.x) % kWarp / 4 + 8 * half;
    if (key >= tile.count) continue;
    const int64_t key_row = segment.key_begin + tile.begin + key;
    const int64_t row = (key_row * args.key_heads + tile.key_head) * args.head_dim;
    AddRow<kD>(dk, half, args.scale, args, backward.dk + row);
    AddRow<kD>(dv, half, 1.0F, args, backward.dv + row);
  }
}

// Grid: (segment, piece of keys, KV head), the first pieces, which most rows read, first; and the
// parts of their readers, the last first, so that the many single ones fill in behind. Block: warp
// w owns keys 16 w to 16 w + 15 of the piece.
template <int kD>
__global__ void __launch_bounds__(kTileThreads, 2) BackwardKeysKernel(const BackwardArgs backward) {
  extern __shared__ __align__(128) char memory[];
  const AttentionArgs& args = backward.attention;
  const SegmentPlan segment = SegmentOfItem(args.segments, args.segment_count, blockIdx.x);
  KeyTile tile(backward, segment, blockIdx.x - segment.first_item);
  const int64_t part = gridDim.y - 1 - blockIdx.y;
  TakePart(backward, part, tile);
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
        MultiplyRows<kD, 2>([&](int step, uint32_t(&a)[4]) { keys.LoadLeft(warp_key, step, a); },
                            queries(stage), first_row, kHalfRows, weights);
        MultiplyRows<kD, 2>([&](int step, uint32_t(&a)[4]) { values.LoadLeft(warp_key, step, a); },
                            d_outs(stage), first_row, kHalfRows, d_weights);
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

  if (tile.parts == 1) {
    AddToKeys<kD>(backward, segment, tile, dk, dv);
  } else {
    float* const slot = backward.part_sums + (tile.first_slot + part) * kSlotFloats<kD>;
    StorePart<kD>(dk, slot);
    StorePart<kD>(dv, slot + kSlotFloats<kD> / 2);
  }
}

// Adds up the parts of tiles in order. Grid and block: those of one part of the kernel before.
template <int kD>
__global__ void __launch_bounds__(kTileThreads) MergeKeyPartsKernel(const BackwardArgs backward) {
  const AttentionArgs& args = backward.attention;
  const SegmentPlan segment = SegmentOfItem(args.segments, args.segment_count, blockIdx.x);
  const KeyTile tile(backward, segment, blockIdx.x - segment.first_item);
  if (tile.count == 0 || tile.parts == 1) return;
  float dk[kD / 8][4], dv[kD / 8][4];
  SetZero(dk);
  SetZero(dv);
  for (int64_t part = 0; part < tile.parts; ++part) {
    const float* const slot = backward.part_sums + (tile.first_slot + part) * kSlotFloats<kD>;
    AddPart<kD>(slot, dk);
    AddPart<kD>(slot + kSlotFloats<kD> / 2, dv);
  }
  AddToKeys<kD>(backward, segment, tile, dk, dv);
}

}  // namespace

absl::Status LaunchBackwardKeys(const ExecutionContext& context, BackwardArgs args, int64_t items) {
  return ForTileColumns(args.attention.head_dim, [&]<int kD>() -> absl::Status {
    const ArenaScope scope(*context.arena);
    const int64_t parts = args.attention.lists == nullptr ? 1 : args.readers.most_parts;
    if (parts > 1) {
      args.part_sums = context.arena->Array<float>(
          args.readers.stored_parts * PiecesOfBlock(args.attention.block_size) * kSlotFloats<kD>);
    }
    const Grid grid = {items, parts};
    RETURN_IF_ERROR(
        Launch(context, "BackwardKeysKernel", BackwardKeysKernel<kD>,
               {.grid = grid, .block = kTileThreads, .shared_bytes = kBackwardBytes<kD>}, args));
    if (parts == 1) return absl::OkStatus();
    return Launch(context, "MergeKeyPartsKernel", MergeKeyPartsKernel<kD>,
                  {.grid = {grid.x}, .block = kTileThreads}, args);
  });
}

}  // namespace salamander::cuda
