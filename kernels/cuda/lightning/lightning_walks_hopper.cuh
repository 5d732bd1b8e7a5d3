// What the warpgroups of a block of Lightning's sweep on Hopper (lightning_sweep_hopper.cu) share:
// which walk over tokens comes next, shared memory, and the turns of its rings.
#ifndef KERNELS_CUDA_LIGHTNING_LIGHTNING_WALKS_HOPPER_CUH_
#define KERNELS_CUDA_LIGHTNING_LIGHTNING_WALKS_HOPPER_CUH_

#include <cstdint>

#include "kernels/cuda/lightning/lightning_kernels.h"
#include "kernels/cuda/lightning/lightning_warpgroup.cuh"

namespace salamander::cuda {

constexpr int kDim = kWarpgroupDim;
constexpr int kChunk = kLightningChunk;
constexpr int kStages = 4;
constexpr int kStageBytes = 3 * kTileBytes;  // queries, keys, values
constexpr int kScoreBuffers = 2;
constexpr int kThreads = (2 + kStateGroups) * kWarpgroup;

// The weights of one state warpgroup's run.
struct StateWeights {
  float query[kChunk];            // of token i: query_scale l^(i+e)
  float value[2 * kChunk];        // of token j in a chunk of c: [j + 64 - c] is key_scale l^(c-e-j)
  float whole_chunk, last_chunk;  // l^64, and l^c of the run's last chunk
};

struct Shared {
  alignas(1024) char stages[kStages][kStageBytes];
  alignas(1024) char scores[kScoreBuffers][kPanelBytes];
  alignas(1024) char outputs[kStateGroups][kPanelBytes];
  StateWeights weights[kStateGroups];
  float powers[2 * kChunk];  // for the scores: [n + 63] is l^n, and 0 for negative n
  uint64_t stage_full[kStages], stage_free[kStages];
  uint64_t score_full[kScoreBuffers], score_free[kScoreBuffers];
};
static_assert(sizeof(Shared) <= 227 * 1024);  // what a block may have

constexpr int kWarpsOfGroup = kWarpgroup / kWarp;

// One run of one head in one product, or a piece of which only the state is wanted.
struct Walk {
  const LightningProduct* product;  // null: a piece
  const LightningStates* states;    // of a piece
  const void* key;
  const void* value;
  float key_scale;
  bool reversed;
  LightningHead head;
  LightningRun run;
  int64_t offset;  // of the first token's head in the tensors
  int64_t step;    // from token to token
  int chunks;
  int last_rows;  // of the last chunk; the others are whole

  __device__ int RowsOf(int chunk) const { return chunk + 1 < chunks ? kChunk : last_rows; }
};

__device__ inline int32_t PieceWalks(const LightningSweepArgs& args) {
  return args.piece_count * args.states.walk_count;
}

// Pieces come before the runs that wait for them, so that every block is through with its own.
__device__ inline int32_t Walks(const LightningSweepArgs& args) {
  return PieceWalks(args) + args.run_count * args.shape.heads * args.product_count;
}

__device__ inline void FindPiece(const LightningSweepArgs& args, int32_t index, Walk& walk) {
  const LightningStatesArgs& states = args.states;
  const LightningPiece piece = args.pieces[index / states.walk_count];
  walk.product = nullptr;
  walk.states = &states.walks[index % states.walk_count];
  walk.key = walk.states->key;
  walk.value = walk.states->value;
  walk.key_scale = walk.states->key_scale;
  walk.reversed = walk.states->reversed;
  walk.head = args.shape.heads_by_slope[piece.head];
  walk.run = walk.states->contributing[piece.index];
  const int32_t remembered =
      RememberedChunks(walk.head, piece.index, states.pieces_of_run, states.chunks_of_piece);
  const int64_t skipped = int64_t{kChunk} * max(0, states.chunks_of_piece - remembered);
  walk.run.first_row += walk.reversed ? -skipped : skipped;
  walk.run.count -= skipped;
}

// Products fastest, so that those of a head read the same tensors at about the same time.
__device__ inline void FindRun(const LightningSweepArgs& args, int32_t index, Walk& walk) {
  const int32_t item = index / args.product_count;
  walk.product = &args.products[index % args.product_count];
  walk.states = nullptr;
  walk.key = walk.product->key;
  walk.value = walk.product->value;
  walk.key_scale = walk.product->key_scale;
  walk.reversed = walk.product->reversed;
  walk.head = args.shape.heads_by_slope[item % args.shape.heads];
  walk.run = walk.product->runs[item / args.shape.heads];
}

__device__ inline Walk WalkAt(const LightningSweepArgs& args, int32_t index) {
  Walk walk;
  if (index < PieceWalks(args)) {
    FindPiece(args, index, walk);
  } else {
    FindRun(args, index - PieceWalks(args), walk);
  }
  const int64_t row_size = int64_t{args.shape.heads} * kDim;
  walk.offset = walk.run.first_row * row_size + int64_t{walk.head.index} * kDim;
  walk.step = walk.reversed ? -row_size : row_size;
  walk.chunks = static_cast<int>((walk.run.count + kChunk - 1) / kChunk);
  walk.last_rows = static_cast<int>(walk.run.count - int64_t{walk.chunks - 1} * kChunk);
  return walk;
}

// Which of the `kCount` buffers of a ring chunk `number` of the block takes, and the parity of the
// buffer's turn.
template <int kCount>
__device__ inline int BufferOf(int number) {
  return number % kCount;
}
template <int kCount>
__device__ inline int TurnOf(int number) {
  return number / kCount & 1;
}

// Arrives for the warp once all its lanes are here.
__device__ inline void ArriveForWarp(uint64_t& barrier) {
  __syncwarp();
  if (threadIdx.x % kWarp == 0) SharedBarrier(&barrier).Arrive();
}

// This warpgroup's own barrier.
__device__ inline void SyncGroup() {
  NamedBarrier(1 + static_cast<int>(threadIdx.x) / kWarpgroup, kWarpgroup);
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_WALKS_HOPPER_CUH_
