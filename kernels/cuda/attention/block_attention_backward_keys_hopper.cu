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
// chunk to chunk (key_sums_hopper.cuh): a block of threads waits until the chunks before have added
// theirs, which is seldom not so since they were begun a chunk earlier, and the last one adds the
// whole to dk and dv.
//
// Shared memory (D = 128): K and V 32 KiB, two stages of Q and dO 64 KiB, two tables of the rows 1
// KiB. Registers: 224 for a thread that multiplies, of which dK and dV take 128, scores and their
// gradients 64, and the two as left operands 32, as the former become free; 32 for one that copies.
#include <climits>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/attention/key_items_hopper.cuh"
#include "kernels/cuda/attention/key_sums_hopper.cuh"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 2 * kWarpgroup;
constexpr int kPanelBytes = kTileRows * kPanelRowBytes;

// What a step needs of its rows. Rows that do not exist are zeros, here and in the stage: they add
// 1 * 0 to dV and 1 * (0 - 0) * 0 to dK.
struct alignas(16) RowTable {
  float logsumexp[kTileRows];
  float delta[kTileRows];
  int position[kTileRows / kLeastGroup];  // of queries
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
