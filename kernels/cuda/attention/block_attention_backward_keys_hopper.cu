// Gradients of the keys and values of block attention on Hopper. A block of threads owns 64 keys of
// one KV head and meets, in ascending order, the rows of a chunk of queries that read them:
//   P' = exp(scale K Q' - logsumexp)   dV += P' dO   dS' = P' (V dO' - delta)   dK += scale dS' Q
//
// Tiles: a step is 64 rows, (query, head of the group) pairs. K and V stay in shared memory, dK and
// dV [64, D] in the registers of one warpgroup; P' and dS' go from registers into the products that
// sum over rows, and Q and dO are read along their columns by the first two products, transposed by
// the last two.
//
// Pipeline: a warp has the rows of Q copied into stages (bulk copies of a query's heads), another
// those of dO; Q and dO of a stage are filled and emptied each by itself. The warpgroup asks for K
// Q' of a step behind the last two products of the step before, and for V dO' behind that, so that
// the tensor cores have work while it waits; and two blocks of threads share a multiprocessor:
// while one takes exponentials, the other multiplies.
//
// Chunks: all blocks of threads of a chunk of queries come before those of the next, so that the
// rows that they gather are in the L2 cache, whatever blocks are selected; and no list is so long
// that others wait for it. Where some keys' readers are in several chunks, the sums are handed from
// chunk to chunk: a block of threads waits until the chunks before have added theirs, which is
// seldom not so since they were begun a chunk earlier, and the last one adds the whole to dk and
// dv.
//
// Shared memory (D = 128): K and V 32 KiB, two stages of Q and dO 64 KiB, two tables of the rows 1
// KiB. Registers: 224 for a thread that multiplies, of which dK and dV take 128, scores and their
// gradients 64, and the two as left operands 32, as the former become free; 32 for one that copies.
#include <algorithm>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda {
namespace {

constexpr int kLeastGroup = 8;  // heads of a KV head; others are its multiples that divide 64
constexpr int64_t kMostQueries = 2048, kLeastQueries = 512;  // of a chunk
constexpr int kThreads = 2 * kWarpgroup;
constexpr int kPanelBytes = kTileRows * kPanelRowBytes;

// Queries of a segment, and the blocks that lie before the end of them.
struct KeyChunk {
  int64_t query_begin, key_begin, first_position, key_count;  // the segment's
  int64_t first_block, segment_blocks, first_cell;            // the segment's
  int64_t first_query, queries;                               // of the segment
  int64_t blocks;
  int64_t first_item;  // of (KV head, block, piece)
};

struct KeysArgs {
  BackwardArgs backward;
  const KeyChunk* chunks;
  int chunk_count;
  int64_t blocks;   // of all segments
  int pieces;       // of a block
  int tensor_rows;  // T * H
  int* next_item;   // blocks of threads take the items in the order in which they begin
  int* added;       // [Hkv, blocks, pieces] readers whose share is in the sums
  float* sums;      // [Hkv, blocks, pieces] of kSumFloats
};

// What a step needs of its rows. Rows that do not exist are zeros, here and in the stage: they add
// 1 * 0 to dV and 1 * (0 - 0) * 0 to dK.
struct alignas(16) RowTable {
  float logsumexp[kTileRows];
  float delta[kTileRows];
  int position[kTileRows / kLeastGroup];  // of queries
};

// 64 keys of a KV head.
struct KeyPiece {
  int key_head;
  int64_t block, piece;
  int begin, count;  // positions

  __device__ KeyPiece(const KeysArgs& args, const KeyChunk& chunk, int64_t item) {
    // Every query reads block 0, the blocks just before the chunk's end are read most.
    const int64_t first_blocks = int64_t{args.backward.attention.key_heads} * args.pieces;
    if (item < first_blocks) {
      key_head = static_cast<int>(item / args.pieces);
      block = 0;
    } else {
      item -= first_blocks;
      const int64_t others = (chunk.blocks - 1) * args.pieces;
      key_head = static_cast<int>(item / others);
      block = chunk.blocks - 1 - item % others / args.pieces;
    }
    piece = item % args.pieces;
    const int64_t block_size = args.backward.attention.block_size;
    const int64_t first = block * block_size + piece * kPieceKeys;
    const int64_t left = min(chunk.key_count - first, int64_t{kPieceKeys});
    begin = static_cast<int>(first);
    count = static_cast<int>(max(left, int64_t{0}));
  }
};

// The queries of a chunk that read a piece.
struct Readers {
  const int32_t* list;  // null: the queries from `first` on
  int first, count;
  int before, all;  // readers in the chunks before, and in all

  __device__ Readers(const KeysArgs& args, const KeyChunk& chunk, const KeyPiece& keys) {
    const int64_t end_query = chunk.first_query + chunk.queries;
    const int64_t query_count = chunk.key_count - chunk.first_position;
    int64_t end;
    if (args.backward.attention.lists == nullptr) {
      const int64_t least = max(keys.begin - chunk.first_position, int64_t{0});
      list = nullptr;
      first = static_cast<int>(max(least, chunk.first_query));
      before = first - static_cast<int>(least);
      all = static_cast<int>(query_count - least);
      end = end_query - least;
    } else {
      const BlockReaders& readers = args.backward.readers;
      const int64_t index = keys.key_head * readers.blocks + chunk.first_block + keys.block;
      const int64_t begin = readers.begins[index];
      const int32_t* const cells =
          readers.before + keys.key_head * readers.cells + chunk.first_cell + keys.block;
      const auto before_query = [&](int64_t query) {
        return cells[query / kListChunk * chunk.segment_blocks];
      };
      first = 0;
      before = before_query(chunk.first_query);
      all = static_cast<int>(readers.begins[index + 1] - begin);
      end = end_query == query_count ? all : before_query(end_query);
      list = readers.queries + begin + before;
    }
    count = max(static_cast<int>(end) - before, 0);
  }
};

// What a block of threads works on: in shared memory, since it is used before and after the loop.
struct KeyItem {
  const KeyChunk* chunk;
  KeyPiece keys;
  Readers readers;
  int first_position;
  int first_row;  // in [T, H]: the segment's first query, the KV head's first head
};

template <int kD>
struct Shared {
  static constexpr int kStages = kD == 64 ? 4 : 2;
  static constexpr int kTileBytes = kD / kPanelColumns * kPanelBytes;
  static constexpr int kTables = (2 + 2 * kStages) * kTileBytes;
  static constexpr int kBarriers = kTables + kStages * static_cast<int>(sizeof(RowTable));
  static constexpr int kItem = kBarriers + 4 * kStages * static_cast<int>(sizeof(uint64_t));
  static constexpr int kBytes = kItem + static_cast<int>(sizeof(KeyItem));

  char* memory;

  __device__ uint32_t keys() const { return SharedAddress(memory); }
  __device__ uint32_t values() const { return SharedAddress(memory) + kTileBytes; }
  // Rows of q, or of d_out.
  __device__ uint32_t rows(int stage, bool of_d_out) const {
    return SharedAddress(memory) + (2 + 2 * stage + (of_d_out ? 1 : 0)) * kTileBytes;
  }
  __device__ RowTable& table(int stage) const {
    return reinterpret_cast<RowTable*>(memory + kTables)[stage];
  }
  __device__ uint64_t* filled(int stage, bool of_d_out) const {
    return reinterpret_cast<uint64_t*>(memory + kBarriers) + 2 * stage + (of_d_out ? 1 : 0);
  }
  __device__ uint64_t* emptied(int stage, bool of_d_out) const {
    return filled(stage, of_d_out) + 2 * kStages;
  }
  __device__ KeyItem& item() const { return *reinterpret_cast<KeyItem*>(memory + kItem); }
};

// The sums of a piece's keys: [dk or dv, four columns' sums, thread of the warpgroup].
template <int kD>
constexpr int64_t kSumFloats = 2 * int64_t{kD} * kPieceKeys;

constexpr int kKeysBarrier = 1;  // of the first warpgroup

// By a warp each for q and its logsumexp, and for d_out and its delta: has the rows of the steps
// copied into the stages. Lane l knows query l % Q of a step's Q; a bulk copy moves the query's
// rows of one panel, or its statistics.
template <int kD>
__device__ void Gather(const KeysArgs& args, const CUtensorMap& map, bool of_d_out, int steps,
                       const Shared<kD>& shared) {
  constexpr int kPanels = kD / kPanelColumns, kStages = Shared<kD>::kStages;
  const KeyItem& item = shared.item();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group = args.backward.attention.group, step_queries = kTileRows / group;
  const int of_step = lane % step_queries, job = lane / step_queries;
  const uint32_t place = job * kPanelBytes + of_step * group * kPanelRowBytes;
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages;
    const int reader = step * step_queries + of_step;
    int query = -1;
    if (reader < item.readers.count) {
      query =
          item.readers.list == nullptr ? item.readers.first + reader : item.readers.list[reader];
    }
    SharedBarrier(shared.emptied(stage, of_d_out)).Wait(step / kStages % 2 ^ 1);
    RowTable& table = shared.table(stage);
    float* const statistics = of_d_out ? table.delta : table.logsumexp;
    if (job == 0) {
      if (!of_d_out) table.position[of_step] = query < 0 ? INT_MAX : item.first_position + query;
      for (int i = 0; i < group && query < 0; ++i) statistics[of_step * group + i] = 0.0F;
    }
    __syncwarp();
    uint64_t* const filled = shared.filled(stage, of_d_out);
    const int list_bytes = group * static_cast<int>(sizeof(float));
    if (lane == 0) {
      const int queries = min(item.readers.count - reader, step_queries);
      ArriveExpecting(filled, Shared<kD>::kTileBytes + queries * list_bytes);
    }
    __syncwarp();
    // Beyond the tensor where there is no row: zeros.
    const int row =
        query < 0 ? args.tensor_rows : item.first_row + query * args.backward.attention.heads;
    if (job < kPanels) {
      CopyPanelRows(map, job * kPanelColumns, row, shared.rows(stage, of_d_out) + place, filled);
    } else if (job == kPanels && query >= 0) {
      const float* const source = of_d_out ? args.backward.delta : args.backward.logsumexp;
      CopyBytes(source + row, list_bytes, SharedAddress(statistics) + of_step * list_bytes, filled);
    }
  }
}

// By the first warpgroup: the piece's keys or values, zeros beyond its count.
template <int kD>
__device__ void CopyKeys(const AttentionArgs& args, const BFloat16* source, const KeyItem& item,
                         uint32_t tile) {
  constexpr int kChunks = kD / kLanes;
  constexpr int kRows = kWarpgroup / kChunks;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const uint32_t panel = chunk * kLanes / kPanelColumns * kPanelBytes;
#pragma unroll
  for (int i = 0; i < kPieceKeys; i += kRows) {
    const int row = i + static_cast<int>(threadIdx.x) / kChunks;
    const bool is_read = row < item.keys.count;
    const int64_t key = item.chunk->key_begin + item.keys.begin + (is_read ? row : 0);
    const int64_t offset = (key * args.key_heads + item.keys.key_head) * kD + chunk * kLanes;
    CopyAsync(tile + panel + ChunkOffset<kPanelColumns>(row, chunk % (kPanelColumns / kLanes)),
              source + offset, is_read);
  }
}

// d = left right' of two tiles of 64 rows, over their columns.
template <int kD>
__device__ void MultiplyTiles(uint32_t left, uint32_t right, float (&d)[8][4]) {
#pragma unroll
  for (int column = 0; column < kD; column += 16) {
    const uint32_t panel = column / kPanelColumns * kPanelBytes;
    WarpgroupMultiplyAdd<false>(d, AlongColumns(left + panel, 0, column % kPanelColumns),
                                AlongColumns(right + panel, 0, column % kPanelColumns), column > 0);
  }
}

// d += left right over 64 rows of the tile `right`.
template <int kD>
__device__ void MultiplyWeightTile(const uint32_t (&left)[4][4], uint32_t right,
                                   float (&d)[kD / 8][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    WarpgroupMultiplyAdd<true>(d, left[i], AlongRows(right, 16 * i, kPanelBytes), true);
  }
}

// Scores become weights.
__device__ inline void TakeWeights(const RowTable& table, float scale, float (&scores)[8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 logsumexp =
        *reinterpret_cast<const float2*>(&table.logsumexp[i * 8 + lane % 4 * 2]);
    const float even = -kLog2E * logsumexp.x, odd = -kLog2E * logsumexp.y;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      scores[i][j] = Exp2(fmaf(scores[i][j], scale, j % 2 == 0 ? even : odd));
    }
  }
}

// No weight for rows that lie before a key.
__device__ inline void MaskWeights(const RowTable& table, int group, int key_position,
                                   float (&weights)[8][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int position = table.position[i * kLeastGroup / group];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (position < key_position + (j >= 2 ? 8 : 0)) weights[i][j] = 0.0F;
    }
  }
}

// Weights and their gradients become weights and gradients of scores, up to the scale, as left
// operands.
__device__ inline void TakeScoreGradients(const RowTable& table, const float (&weights)[8][4],
                                          float (&gradients)[8][4], uint32_t (&left_weights)[4][4],
                                          uint32_t (&left_gradients)[4][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 delta = *reinterpret_cast<const float2*>(&table.delta[i * 8 + lane % 4 * 2]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      gradients[i][j] = weights[i][j] * (gradients[i][j] - (j % 2 == 0 ? delta.x : delta.y));
    }
    if (i % 2 == 1) {
      AsLeft(weights[i - 1], weights[i], left_weights[i / 2]);
      AsLeft(gradients[i - 1], gradients[i], left_gradients[i / 2]);
    }
  }
}

// By the first warpgroup: dK, up to the scale, and dV of the piece.
template <int kD>
__device__ void Multiply(const AttentionArgs& args, int steps, const Shared<kD>& shared,
                         float (&dk)[kD / 8][4], float (&dv)[kD / 8][4]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr int kStages = Shared<kD>::kStages;
  const float scale = args.scale * kLog2E;
  const int begin = shared.item().keys.begin;
  const int last = begin + shared.item().keys.count - 1;
  const int key_position = begin + warp * 16 + lane / 4;  // of the thread's first row
  SetZero(dk);
  SetZero(dv);
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages, parity = step / kStages % 2;
    const uint32_t queries = shared.rows(stage, false), d_outs = shared.rows(stage, true);
    const RowTable& table = shared.table(stage);
    float weights[8][4], gradients[8][4];
    uint32_t left_weights[4][4], left_gradients[4][4];
    SharedBarrier(shared.filled(stage, false)).Wait(parity);
    FenceProducts();
    MultiplyTiles<kD>(shared.keys(), queries, weights);
    CommitProducts();
    WaitForProducts<1>();
    if (lane == 0 && step > 0) {
      SharedBarrier(shared.emptied((step - 1) % kStages, false)).Arrive();
    }
    SharedBarrier(shared.filled(stage, true)).Wait(parity);
    FenceProducts();
    MultiplyTiles<kD>(shared.values(), d_outs, gradients);
    CommitProducts();
    WaitForProducts<1>();
    HoldProduct(weights);
    TakeWeights(table, scale, weights);
    // Positions ascend, so the first row tells whether a key lies after some row.
    if (table.position[0] < last) MaskWeights(table, args.group, key_position, weights);
    WaitForProducts<0>();
    HoldProduct(gradients);
    TakeScoreGradients(table, weights, gradients, left_weights, left_gradients);
    FenceProducts();
    MultiplyWeightTile<kD>(left_weights, d_outs, dv);
    CommitProducts();
    MultiplyWeightTile<kD>(left_gradients, queries, dk);
    CommitProducts();
    WaitForProducts<1>();
    if (lane == 0) SharedBarrier(shared.emptied(stage, true)).Arrive();
  }
  WaitForProducts<0>();
  HoldProduct(dk);
  HoldProduct(dv);
}

// Adds `factor` times a thread's columns of one of its two rows to the row in global memory.
template <int kD>
__device__ void AddRow(const float (&d)[kD / 8][4], int half, float factor, BFloat16* row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    auto* const pair = reinterpret_cast<__nv_bfloat162*>(row + i * 8 + lane % 4 * 2);
    const float2 before = __bfloat1622float2(*pair);
    *pair = __floats2bfloat162_rn(before.x + factor * d[i][2 * half],
                                  before.y + factor * d[i][2 * half + 1]);
  }
}

template <int kD>
__device__ void AddToKeys(const BackwardArgs& backward, const KeyChunk& chunk, const KeyPiece& keys,
                          const float (&dk)[kD / 8][4], const float (&dv)[kD / 8][4]) {
  const AttentionArgs& args = backward.attention;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = static_cast<int>(threadIdx.x) / kWarp * 16 + lane / 4 + 8 * half;
    if (key >= keys.count) continue;
    const int64_t row =
        ((chunk.key_begin + keys.begin + key) * args.key_heads + keys.key_head) * kD;
    AddRow<kD>(dk, half, args.scale, backward.dk + row);
    AddRow<kD>(dv, half, 1.0F, backward.dv + row);
  }
}

template <int kD>
__device__ void StoreSums(const float (&d)[kD / 8][4], float* sums) {
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    __stcg(reinterpret_cast<float4*>(sums) + i * kWarpgroup + threadIdx.x,
           make_float4(d[i][0], d[i][1], d[i][2], d[i][3]));
  }
}

template <int kD>
__device__ void AddSums(const float* sums, float (&d)[kD / 8][4]) {
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    const float4 four =
        __ldcg(reinterpret_cast<const float4*>(sums) + i * kWarpgroup + threadIdx.x);
    d[i][0] += four.x, d[i][1] += four.y, d[i][2] += four.z, d[i][3] += four.w;
  }
}

// What other blocks of threads stored before their release is seen after the load, and the reverse.
__device__ inline int LoadAcquired(const int* source) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(source) : "memory");
  return value;
}
__device__ inline void StoreReleased(int* destination, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(destination), "r"(value) : "memory");
}

// By the first warpgroup: adds the sums of the chunks before, in their order whatever the order in
// which the chunks come to their ends, and hands them on, or adds them to dk and dv.
template <int kD>
__device__ void HandOn(const KeysArgs& args, const KeyItem& item, float (&dk)[kD / 8][4],
                       float (&dv)[kD / 8][4]) {
  const KeyPiece& keys = item.keys;
  const int64_t block = keys.key_head * args.blocks + item.chunk->first_block + keys.block;
  const int64_t index = block * args.pieces + keys.piece;
  float* const sums = args.sums + index * kSumFloats<kD>;
  if (item.readers.before > 0) {
    if (threadIdx.x == 0) {
      while (LoadAcquired(args.added + index) != item.readers.before) __nanosleep(64);
    }
    NamedBarrier(kKeysBarrier, kWarpgroup);
    AddSums<kD>(sums, dk);
    AddSums<kD>(sums + kSumFloats<kD> / 2, dv);
  }
  const int count = item.readers.before + item.readers.count;
  if (count == item.readers.all) {
    AddToKeys<kD>(args.backward, *item.chunk, keys, dk, dv);
    return;
  }
  StoreSums<kD>(dk, sums);
  StoreSums<kD>(dv, sums + kSumFloats<kD> / 2);
  __threadfence();
  NamedBarrier(kKeysBarrier, kWarpgroup);
  if (threadIdx.x == 0) StoreReleased(args.added + index, count);
}

// Grid: one block for a (chunk, KV head, block, piece), in that order. Block: a warpgroup that
// multiplies, then one that copies.
template <int kD>
__global__ void __launch_bounds__(kThreads, 2)
    KeyGradientsKernel(const KeysArgs args, const __grid_constant__ CUtensorMap q_map,
                       const __grid_constant__ CUtensorMap d_out_map) {
  extern __shared__ __align__(1024) char memory[];
  const Shared<kD> shared{memory};
  if (threadIdx.x == 0) {
    const int index = atomicAdd(args.next_item, 1);
    const KeyChunk* const chunk =
        &EntryOf(args.chunks, args.chunk_count, index, &KeyChunk::first_item);
    const KeyPiece keys(args, *chunk, index - chunk->first_item);
    const AttentionArgs& attention = args.backward.attention;
    shared.item() = {
        chunk, keys, Readers(args, *chunk, keys), static_cast<int>(chunk->first_position),
        static_cast<int>(chunk->query_begin) * attention.heads + keys.key_head * attention.group};
    for (int stage = 0; stage < Shared<kD>::kStages; ++stage) {
      for (const bool of_d_out : {false, true}) {
        SharedBarrier(shared.filled(stage, of_d_out)).Init(1);
        SharedBarrier(shared.emptied(stage, of_d_out)).Init(kWarpgroup / kWarp);
      }
    }
    FenceBarriersForCopies();
  }
  __syncthreads();
  const KeyItem& item = shared.item();
  const int64_t rows = static_cast<int64_t>(item.readers.count) * args.backward.attention.group;
  const int steps = static_cast<int>(CeilDivide(rows, kTileRows));
  if (item.keys.count == 0 || steps == 0) return;
  if (threadIdx.x >= kWarpgroup) {
    GiveRegisters<32>();
    const int warp = static_cast<int>(threadIdx.x - kWarpgroup) / kWarp;
    if (warp < 2) Gather<kD>(args, warp == 0 ? q_map : d_out_map, warp == 1, steps, shared);
  } else {
    TakeRegisters<224>();
    CopyKeys<kD>(args.backward.attention, args.backward.attention.k, item, shared.keys());
    CopyKeys<kD>(args.backward.attention, args.backward.attention.v, item, shared.values());
    CommitCopies();
    WaitForCopies<0>();
    FenceSharedForProducts();
    NamedBarrier(kKeysBarrier, kWarpgroup);
    float dk[kD / 8][4], dv[kD / 8][4];
    Multiply<kD>(args.backward.attention, steps, shared, dk, dv);
    HandOn<kD>(args, item, dk, dv);
  }
}

// How many queries come into a chunk: as many as the L2 cache holds the rows of, or a 32nd of all,
// so that most chunks hold some dozens of the readers of most blocks; and ever fewer towards the
// end, so that the last blocks of threads are soon done. Multiples of kListChunk.
struct ChunkRule {
  int64_t most, least;

  explicit ChunkRule(int64_t all_queries)
      : most(std::max(kMostQueries, Rounded(all_queries / 32))),
        least(std::max(kLeastQueries, Rounded(all_queries / 128))) {}

  // Of the first chunk of the last `left` queries of all.
  int64_t Queries(int64_t left) const { return std::clamp(Rounded(left / 2), least, most); }

 private:
  static int64_t Rounded(int64_t queries) { return queries / kListChunk * kListChunk; }
};

struct KeysPlan {
  std::vector<KeyChunk> chunks;
  int64_t items = 0, blocks = 0;
};

KeysPlan PlanKeys(const BlockAttention& attention, const AttentionArgs& args, int64_t pieces) {
  int64_t left = 0, first_cell = 0;
  for (const Segment& segment : attention.segments) left += segment.query_count;
  const ChunkRule rule(left);
  KeysPlan plan;
  for (const Segment& segment : attention.segments) {
    KeyChunk chunk = {.query_begin = segment.query_begin,
                      .key_begin = segment.key_begin,
                      .first_position = segment.first_position,
                      .key_count = segment.key_count(),
                      .first_block = plan.blocks,
                      .segment_blocks = CeilDivide(segment.key_count(), args.block_size),
                      .first_cell = first_cell};
    for (int64_t end = 0; end < segment.query_count; left -= chunk.queries) {
      chunk.first_query = end;
      chunk.queries = std::min(segment.query_count - end, rule.Queries(left));
      end += chunk.queries;
      chunk.blocks = CeilDivide(segment.first_position + end, args.block_size);
      chunk.first_item = plan.items;
      plan.items += chunk.blocks * pieces * args.key_heads;
      plan.chunks.push_back(chunk);
    }
    plan.blocks += chunk.segment_blocks;
    first_cell += chunk.segment_blocks * CeilDivide(segment.query_count, kListChunk);
  }
  return plan;
}

template <int kD>
absl::Status LaunchKeys(const ExecutionContext& context, const BlockAttention& attention,
                        const BlockAttentionGradients& gradients, const BackwardArgs& backward) {
  const ArenaScope scope(*context.arena);
  KeysArgs args = {.backward = backward};
  args.pieces = static_cast<int>(PiecesOfBlock(backward.attention.block_size));
  const KeysPlan plan = PlanKeys(attention, backward.attention, args.pieces);
  args.chunk_count = static_cast<int>(plan.chunks.size());
  ASSIGN_OR_RETURN(args.chunks, UploadArray<KeyChunk>(context, absl::MakeConstSpan(plan.chunks)));
  args.blocks = plan.blocks;
  args.tensor_rows = static_cast<int>(attention.q.dim(0) * attention.q.dim(1));
  const int64_t all_pieces = plan.blocks * args.pieces * backward.attention.key_heads;
  args.sums = context.arena->Array<float>(all_pieces * kSumFloats<kD>);
  args.next_item = context.arena->Array<int>(1 + all_pieces);
  args.added = args.next_item + 1;
  RETURN_IF_ERROR(context.cuda->Fill(args.next_item, 0, (1 + all_pieces) * sizeof(int)));
  ASSIGN_OR_RETURN(const CUtensorMap q_map, MakeRowMap(attention.q, backward.attention.group));
  ASSIGN_OR_RETURN(const CUtensorMap d_out_map,
                   MakeRowMap(gradients.d_out, backward.attention.group));
  return Launch(context, "KeyGradientsKernel", KeyGradientsKernel<kD>,
                {.grid = {plan.items}, .block = kThreads, .shared_bytes = Shared<kD>::kBytes}, args,
                q_map, d_out_map);
}

}  // namespace

bool HopperKeysServe(const ExecutionContext& context, const BlockAttention& attention,
                     const BackwardArgs& args) {
  const AttentionArgs& shape = args.attention;
  return context.cuda->has_warpgroups() && shape.is_aligned && AreAligned({args.logsumexp}) &&
         (shape.head_dim == 64 || shape.head_dim == 128) && shape.block_size % kPieceKeys == 0 &&
         shape.group % kLeastGroup == 0 && kTileRows % shape.group == 0 &&
         attention.q.dim(0) * attention.q.dim(1) < INT_MAX;
}

absl::Status HopperBackwardKeys(const ExecutionContext& context, const BlockAttention& attention,
                                const BlockAttentionGradients& gradients, BackwardArgs args) {
  return args.attention.head_dim == 64 ? LaunchKeys<64>(context, attention, gradients, args)
                                       : LaunchKeys<128>(context, attention, gradients, args);
}

}  // namespace salamander::cuda
