// The sweep of lightning_sweep.cu for head dim 128 on Hopper: the same chunked product with the
// same roundings, on wgmma.
//
// As many blocks as multiprocessors work on one (run, head, product) after another, and before
// those on the pieces that make their start states (lightning_plan.h), where the sweep is given
// any. A piece is only ever waited for by runs, which come later in every block, so the wait ends
// once all blocks have begun (Runtime::has_whole_device).
// A block's four warpgroups meet once a chunk of 64 tokens, through barriers in shared memory:
//
//   loads    copies queries, keys and values of the chunks ahead into a ring, across runs
//   scores   P = (query key^T) .* l^(i-j), bf16, into shared memory                m64n64k128
//   state 0  value dims 0 to 63, and state 1, 64 to 127:
//              out^T  = query_scale l^(i+e) .* (S query^T)                         m64n64k128
//              S      = l^count S + (key_scale l^(count-e-j) .* value^T) key       m64n128k64
//              out^T += value^T P^T                                                m64n64k64
//
// With S [value dim, key dim] on the left, all three take their left operand from registers: S is
// the accumulator of the second and, rounded, the left operand of the first, and never leaves the
// registers; value^T comes by a transposing ldmatrix. Tokens are the right operand's columns. out^T
// leaves by a transposing stmatrix and whole 128-byte lines.
//
// Shared memory: 4 stages of 3 x 16 KiB, P twice 8 KiB, outputs 2 x 8 KiB, weights: all of 227 KiB.
// Registers: loads 48, scores 80, state 192 (S 64, its bf16 copy 32, out 32, value^T 16).
#include <algorithm>
#include <limits>

#include "kernels/base/logging.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/lightning/lightning_ends_hopper.cuh"
#include "kernels/cuda/lightning/lightning_kernels.h"
#include "kernels/cuda/lightning/lightning_walks_hopper.cuh"
#include "kernels/cuda/lightning/lightning_warpgroup.cuh"

namespace salamander::cuda {
namespace {

// Copies of this many chunks stay under way while the one before them is announced.
constexpr int kChunksUnderWay = 2;

__device__ inline void StoreMatrices(uint32_t address, uint32_t a, uint32_t b, uint32_t c,
                                     uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

__device__ inline void StoreMatricesTransposed(uint32_t address, uint32_t a, uint32_t b, uint32_t c,
                                               uint32_t d) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(a), "r"(b), "r"(c), "r"(d)
      : "memory");
}

// Announces a chunk whose copies of this thread have landed.
__device__ inline void AnnounceStage(Shared& shared, int number) {
  FenceSharedForProducts();
  ArriveForWarp(shared.stage_full[BufferOf<kStages>(number)]);
}

__device__ void LoadChunks(const LightningSweepArgs& args, Shared& shared) {
  static_assert(kChunksUnderWay < kStages);
  const TileLoader<kWarpgroup> loader;
  int number = 0;
  for (int32_t index = static_cast<int32_t>(blockIdx.x); index < Walks(args);
       index += static_cast<int32_t>(gridDim.x)) {
    const Walk walk = WalkAt(args, index);
    const bool is_piece = walk.product == nullptr;
    const auto* query =
        static_cast<const BFloat16*>(is_piece ? walk.key : walk.product->query) + walk.offset;
    const auto* key = static_cast<const BFloat16*>(walk.key) + walk.offset;
    const auto* value = static_cast<const BFloat16*>(walk.value) + walk.offset;
    for (int chunk = 0; chunk < walk.chunks; ++chunk, ++number) {
      const int stage = BufferOf<kStages>(number);
      SharedBarrier(&shared.stage_free[stage]).Wait(TurnOf<kStages>(number) ^ 1);
      const uint32_t tiles = SharedAddress(shared.stages[stage]);
      const int rows = walk.RowsOf(chunk);
      if (!is_piece) loader.Load(query, walk.step, rows, tiles);
      loader.Load(key, walk.step, rows, tiles + kTileBytes);
      loader.Load(value, walk.step, rows, tiles + 2 * kTileBytes);
      CommitCopies();
      query += kChunk * walk.step;
      key += kChunk * walk.step;
      value += kChunk * walk.step;
      if (number < kChunksUnderWay) continue;
      WaitForCopies<kChunksUnderWay>();
      AnnounceStage(shared, number - kChunksUnderWay);
    }
  }
  WaitForCopies<0>();
  for (int i = max(0, number - kChunksUnderWay); i < number; ++i) AnnounceStage(shared, i);
}

// The factors of this thread's elements of P.
__device__ inline void LoadScoreFactors(const float (&powers)[2 * kChunk], float scale,
                                        float (&factors)[kChunk / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < kChunk / 8; ++i) {
#pragma unroll
    for (int element = 0; element < 4; ++element) {
      const int column = 8 * i + 2 * (lane % 4) + element % 2;
      factors[i][element] = scale * powers[row + element / 2 * 8 - column + kChunk - 1];
    }
  }
}

// Frees this warpgroup's hold on chunks that it has nothing to do with.
__device__ inline void LetPass(Shared& shared, int chunks, int& number) {
  for (int chunk = 0; chunk < chunks; ++chunk, ++number) {
    const int stage = BufferOf<kStages>(number);
    SharedBarrier(&shared.stage_full[stage]).Wait(TurnOf<kStages>(number));
    ArriveForWarp(shared.stage_free[stage]);
  }
}

__device__ void ComputeScores(const LightningSweepArgs& args, Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int lane = thread % kWarp;
  const int place = ChunkOffset<kChunk>(thread / kWarp * 16 + (lane & 15), 0);
  int number = 0, scored = 0;  // chunks so far, and those of runs
  for (int32_t index = static_cast<int32_t>(blockIdx.x); index < Walks(args);
       index += static_cast<int32_t>(gridDim.x)) {
    const Walk walk = WalkAt(args, index);
    if (walk.product == nullptr) {
      LetPass(shared, walk.chunks, number);
      continue;
    }
    SyncGroup();  // nobody reads the powers of the walk before
    const int n = thread - (kChunk - 1);
    shared.powers[thread] = n < 0 ? 0.0F : static_cast<float>(exp(-walk.head.slope * n));
    SyncGroup();
    float factors[kChunk / 8][4];
    LoadScoreFactors(shared.powers, walk.product->query_scale * walk.product->key_scale, factors);
    for (int chunk = 0; chunk < walk.chunks; ++chunk, ++number, ++scored) {
      const int stage = BufferOf<kStages>(number);
      const uint32_t queries = SharedAddress(shared.stages[stage]);
      const uint32_t keys = queries + kTileBytes;
      SharedBarrier(&shared.stage_full[stage]).Wait(TurnOf<kStages>(number));
      float sums[kChunk / 8][4];
      FenceProducts();
#pragma unroll
      for (int d = 0; d < kDim; d += 16) {
        const int panel = d / kPanelColumns * kPanelBytes;
        WarpgroupMultiplyAdd<false>(sums, AlongColumns(queries + panel, 0, d % kPanelColumns),
                                    AlongColumns(keys + panel, 0, d % kPanelColumns), d > 0);
      }
      CommitProducts();
      WaitForProducts<0>();
      HoldProduct(sums);
      ArriveForWarp(shared.stage_free[stage]);

      const int buffer = BufferOf<kScoreBuffers>(scored);
      SharedBarrier(&shared.score_free[buffer]).Wait(TurnOf<kScoreBuffers>(scored) ^ 1);
      const uint32_t scores = SharedAddress(shared.scores[buffer]) + place;
#pragma unroll
      for (int i = 0; i < kChunk / 8; i += 2) {
        uint32_t pairs[4];
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const float* const sum = &sums[i + p / 2][p % 2 * 2];
          const float* const factor = &factors[i + p / 2][p % 2 * 2];
          pairs[p] = PackPair(factor[0] * sum[0], factor[1] * sum[1]);
        }
        StoreMatrices(scores ^ ((i + lane / 16) << 4), pairs[0], pairs[1], pairs[2], pairs[3]);
      }
      FenceSharedForProducts();
      ArriveForWarp(shared.score_full[buffer]);
    }
  }
}

__device__ void FillWeights(const Walk& walk, StateWeights& weights) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int offset = walk.reversed ? 0 : 1;
  const auto power = [&](int n) {
    return n < 0 ? 0.0F : static_cast<float>(exp(-walk.head.slope * n));
  };
  weights.value[thread] = walk.key_scale * power(kChunk - offset - thread);
  if (thread < kChunk) {
    const float query_scale = walk.product == nullptr ? 0.0F : walk.product->query_scale;
    weights.query[thread] = query_scale * power(thread + offset);
  } else if (thread == kChunk) {
    weights.whole_chunk = power(kChunk);
  } else if (thread == kChunk + 1) {
    weights.last_chunk = power(walk.RowsOf(walk.chunks - 1));
  }
}

// The state, rounded, as the left operand: [i] are key dims 16 i to 16 i + 15.
__device__ inline void RoundState(const WarpgroupState& state, uint32_t (&rounded)[kDim / 16][4]) {
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float* const pair = &state[2 * i + p / 2][p % 2 * 2];
      rounded[i][p] = PackPair(pair[0], pair[1]);
    }
  }
}

// out^T [64 value dims, 64 tokens] to rows of the output, through this warpgroup's panel.
__device__ inline void StoreOutput(const float (&out)[kChunk / 8][4], char* panel, BFloat16* first,
                                   int64_t step, int rows) {
  int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  asm volatile("" : "+r"(thread));  // places are found anew each time: registers are scarce
  const int lane = thread % kWarp;
  const uint32_t place =
      SharedAddress(panel) +
      ChunkOffset<kPanelColumns>(lane % 8 + lane / 16 * 8, thread / kWarp * 2 + lane / 8 % 2);
  SyncGroup();  // the chunk before has left the panel
#pragma unroll
  for (int i = 0; i < kChunk / 8; i += 2) {
    StoreMatricesTransposed(place + i * 8 * kPanelRowBytes, PackPair(out[i][0], out[i][1]),
                            PackPair(out[i][2], out[i][3]), PackPair(out[i + 1][0], out[i + 1][1]),
                            PackPair(out[i + 1][2], out[i + 1][3]));
  }
  SyncGroup();
  const int row = thread / 8;
  const int piece = thread % 8;
  constexpr int kRows = kWarpgroup / 8;
#pragma unroll
  for (int i = 0; i < kChunk; i += kRows) {
    if (row + i < rows) {
      *reinterpret_cast<uint4*>(first + (row + i) * step + piece * kLanes) =
          *reinterpret_cast<const uint4*>(panel + ChunkOffset<kPanelColumns>(row + i, piece));
    }
  }
}

// Where a state warpgroup finds a chunk.
struct ChunkTiles {
  __device__ ChunkTiles(const Shared& shared, int stage, int group)
      : queries(SharedAddress(shared.stages[stage])),
        keys(queries + kTileBytes),
        values(keys + kTileBytes + group * kPanelBytes) {}
  uint32_t queries, keys;
  uint32_t values;  // this warpgroup's panel
};

// This thread's part of 16 tokens' value^T as the left operand, from token `row` on.
__device__ inline void LoadValues(const ChunkTiles& tiles, int row, uint32_t (&values)[4]) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  LoadTransposed<kPanelColumns>(tiles.values, row, thread / kWarp * 16, thread % kWarp, values);
}

// Starts adding (weight .* value^T) key to the state.
__device__ inline void StartStateProduct(const ChunkTiles& tiles, const float* weight,
                                         WarpgroupState& state) {
  uint32_t weighted[kChunk / 16][4];
#pragma unroll
  for (int i = 0; i < kChunk / 16; ++i) {
    uint32_t values[4];
    LoadValues(tiles, 16 * i, values);
    WeighValues(values, weight + 16 * i, static_cast<int>(threadIdx.x) % kWarp, weighted[i]);
  }
  FenceProducts();
#pragma unroll
  for (int i = 0; i < kChunk / 16; ++i) {
    WarpgroupMultiplyAdd<true>(state, weighted[i], AlongRows(tiles.keys, 16 * i, kPanelBytes),
                               true);
  }
  CommitProducts();
}

using OutputSums = float[kChunk / 8][4];

// Starts out^T = S query^T.
__device__ inline void StartOutputOfState(const ChunkTiles& tiles,
                                          const uint32_t (&rounded)[kDim / 16][4],
                                          OutputSums& out) {
  FenceProducts();
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const int d = 16 * i;
    WarpgroupMultiplyAdd<false>(
        out, rounded[i],
        AlongColumns(tiles.queries + d / kPanelColumns * kPanelBytes, 0, d % kPanelColumns), i > 0);
  }
  CommitProducts();
}

__device__ inline void WeighOutput(const StateWeights& weights, OutputSums& out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kChunk / 8; ++i) {
    const float2 weight = *reinterpret_cast<const float2*>(&weights.query[8 * i + 2 * (lane % 4)]);
    out[i][0] *= weight.x;
    out[i][1] *= weight.y;
    out[i][2] *= weight.x;
    out[i][3] *= weight.y;
  }
}

// Starts out^T += value^T P^T.
__device__ inline void StartOutputOfScores(const uint32_t (&values)[kChunk / 16][4],
                                           uint32_t scores, OutputSums& out) {
  FenceProducts();
#pragma unroll
  for (int i = 0; i < kChunk / 16; ++i) {
    WarpgroupMultiplyAdd<false>(out, values[i], AlongColumns(scores, 0, 16 * i), true);
  }
  CommitProducts();
}

// Sums a piece and writes it.
__device__ inline void WorkOnPiece(const LightningSweepArgs& args, Shared& shared, const Walk& walk,
                                   int group, int& number) {
  const StateWeights& weights = shared.weights[group];
  SyncGroup();
  WarpgroupState state;
  ClearState(state);
  for (int chunk = 0; chunk < walk.chunks; ++chunk, ++number) {
    const int stage = BufferOf<kStages>(number);
    SharedBarrier(&shared.stage_full[stage]).Wait(TurnOf<kStages>(number));
    ScaleState(weights.whole_chunk, state);
    StartStateProduct(ChunkTiles(shared, stage, group), weights.value, state);
    WaitForProducts<0>();
    HoldProduct(state);
    ArriveForWarp(shared.stage_free[stage]);
  }
  const int32_t row = walk.run.end_scratch;
  WritePiece(state, group, walk.states->scratch + StateOffset(args, walk, row));
  AnnouncePiece(walk.states->written + int64_t{row} * args.shape.heads + walk.head.index);
}

__device__ inline void WorkOnRun(const LightningSweepArgs& args, Shared& shared, int32_t index,
                                 const Walk& walk, int group, int& number, int& scored) {
  const StateWeights& weights = shared.weights[group];
  WarpgroupState state;
  const bool keeps_end = walk.run.end_slot >= 0 && walk.product->end_states != nullptr;
  StartState(args, walk, group, state);
  SyncGroup();
  BFloat16* out_rows =
      static_cast<BFloat16*>(walk.product->out) + walk.offset + group * kPanelColumns;
  for (int chunk = 0; chunk < walk.chunks; ++chunk, ++number, ++scored) {
    const int stage = BufferOf<kStages>(number);
    const int buffer = BufferOf<kScoreBuffers>(scored);
    const ChunkTiles tiles(shared, stage, group);
    const int rows = walk.RowsOf(chunk);
    uint32_t rounded[kDim / 16][4];
    RoundState(state, rounded);
    ScaleState(rows == kChunk ? weights.whole_chunk : weights.last_chunk, state);
    SharedBarrier(&shared.stage_full[stage]).Wait(TurnOf<kStages>(number));
    OutputSums out;
    StartOutputOfState(tiles, rounded, out);
    StartStateProduct(tiles, weights.value + (kChunk - rows), state);
    WaitForProducts<1>();  // the state's may still run
    HoldProduct(out);
    WeighOutput(weights, out);
    uint32_t values[kChunk / 16][4];  // once more, rather than kept in registers
#pragma unroll
    for (int i = 0; i < kChunk / 16; ++i) LoadValues(tiles, 16 * i, values[i]);
    SharedBarrier(&shared.score_full[buffer]).Wait(TurnOf<kScoreBuffers>(scored));
    StartOutputOfScores(values, SharedAddress(shared.scores[buffer]), out);
    WaitForProducts<0>();
    HoldProduct(out);
    HoldProduct(state);
    ArriveForWarp(shared.stage_free[stage]);
    ArriveForWarp(shared.score_free[buffer]);
    StoreOutput(out, shared.outputs[group], out_rows, walk.step, rows);
    out_rows += kChunk * walk.step;
  }
  if (keeps_end) KeepEndState(args, index, group, state);
}

__device__ void ComputeOutputs(const LightningSweepArgs& args, Shared& shared, int group) {
  int number = 0, scored = 0;  // chunks so far, and those of runs
  for (int32_t index = static_cast<int32_t>(blockIdx.x); index < Walks(args);
       index += static_cast<int32_t>(gridDim.x)) {
    const Walk walk = WalkAt(args, index);
    SyncGroup();  // nobody reads the weights of the walk before
    FillWeights(walk, shared.weights[group]);
    if (walk.product == nullptr) {
      WorkOnPiece(args, shared, walk, group, number);
    } else {
      WorkOnRun(args, shared, index, walk, group, number, scored);
    }
  }
}

// Grid: any number of blocks.
__global__ void __launch_bounds__(kThreads, 1)
    WarpgroupSweepKernel(const __grid_constant__ LightningSweepArgs args) {
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      SharedBarrier(&shared.stage_full[i]).Init(kWarpsOfGroup);
      SharedBarrier(&shared.stage_free[i]).Init((1 + kStateGroups) * kWarpsOfGroup);
    }
    for (int i = 0; i < kScoreBuffers; ++i) {
      SharedBarrier(&shared.score_full[i]).Init(kWarpsOfGroup);
      SharedBarrier(&shared.score_free[i]).Init(kStateGroups * kWarpsOfGroup);
    }
  }
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (group == 0) {
    GiveRegisters<48>();
    LoadChunks(args, shared);
  } else if (group == 1) {
    GiveRegisters<80>();
    ComputeScores(args, shared);
  } else {
    TakeRegisters<192>();
    ComputeOutputs(args, shared, group - 2);
  }
}

}  // namespace

bool HasLightningWarpgroups(const ExecutionContext& context, int32_t dim) {
  // Runs wait for pieces of other blocks, all of which have to be on the device at once.
  return dim == kDim && context.cuda->has_warpgroups() && context.cuda->has_whole_device();
}

absl::Status LaunchLightningWarpgroupSweep(const ExecutionContext& context,
                                           const LightningSweepArgs& args) {
  const int64_t walks = int64_t{args.run_count} * args.shape.heads * args.product_count +
                        int64_t{args.piece_count} * args.states.walk_count;
  SALAMANDER_CHECK(walks <= std::numeric_limits<int32_t>::max()) << walks << " walks";
  const int64_t blocks = std::min<int64_t>(walks, context.cuda->multiprocessors());
  return Launch(context, "WarpgroupSweepKernel", WarpgroupSweepKernel,
                {.grid = {blocks}, .block = kThreads, .shared_bytes = sizeof(Shared)}, args);
}

}  // namespace salamander::cuda
