// The chunked product itself (lightning_kernels.h), for runs whose start states are
// known. Per chunk of 64 tokens, with the state S [value dim, key dim] in registers:
//   P = (query key^T) .* l^(i-j)                          bf16, through shared memory
//   out = query_scale l^(i+e) .* (query S^T) + P value
//   S = l^count S + (key_scale l^(count-e-j) .* value)^T key
// Every product is mma.m16n8k16: bf16 operands (P, a copy of S and the weighted values are rounded
// for it), fp32 sums. Operands are bounded by shared memory's bandwidth, hence S in registers, each
// value block loaded once for both its products, and only the 10 of 16 blocks of P that causality
// leaves. The next chunk is on its way while one is worked on. Two blocks share a multiprocessor.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/lightning/lightning_kernels.h"
#include "kernels/cuda/lightning/lightning_tile.cuh"

namespace salamander::cuda {
namespace {

template <int kDim, int kTiles>
struct Block {
  static constexpr int kWarps = kDim / (16 * kTiles);
  static constexpr int kThreads = kWarp * kWarps;
  static constexpr int kTileBytes = kLightningChunk * kDim * 2;
  static constexpr int kStageBytes = 3 * kTileBytes;  // queries, keys, values
  static constexpr int kScoreBytes = kLightningChunk * kLightningChunk * 2;
  static constexpr int kSharedBytes = 2 * kStageBytes + kScoreBytes;
};

// P's lower triangle of 16 x 16 blocks in strips of at most two, four bits each, in eight slots;
// warp w of W takes slots w, w + W, ... Idle slots (4 and 6) even out the multiprocessor's
// quarters.
constexpr uint32_t kStripRow = 0x20001233;
constexpr uint32_t kStripColumn = 0x20000020;
constexpr uint32_t kStripBlocks = 0x10102222;

__device__ inline int Nibble(uint32_t packed, int index) {
  return static_cast<int>(packed >> (4 * index)) & 15;
}

// Writes this warp's strips of P, times `scale`.
template <int kDim, int kWarps>
__device__ void ScoreStrips(uint32_t queries, uint32_t keys, const DecayPowers& powers, float scale,
                            int warp, int lane, char* scores) {
  for (int slot = warp; slot < 8; slot += kWarps) {
    const int blocks = Nibble(kStripBlocks, slot);
    if (blocks == 0) continue;
    const int row = 16 * Nibble(kStripRow, slot);
    const int column = 16 * Nibble(kStripColumn, slot);
    float sum[2][2][4] = {};
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      uint32_t query[4], key[4];
      LoadBlock<kDim>(queries, row, d, lane, query);
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        if (block == blocks) break;
        LoadColumns<kDim>(keys, column + 16 * block, d, lane, key);
        MultiplyAdd(sum[block][0], query, key[0], key[1]);
        MultiplyAdd(sum[block][1], query, key[2], key[3]);
      }
    }
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      if (block == blocks) break;
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int i = row + 8 * half + lane / 4;
          const int j = column + 16 * block + 8 * tile + 2 * (lane % 4);
          const float* const pair = &sum[block][tile][2 * half];
          *reinterpret_cast<uint32_t*>(scores + ChunkOffset<kLightningChunk>(i, j / 8) +
                                       4 * (lane % 4)) =
              PackPair(scale * powers(i - j) * pair[0], scale * powers(i - j - 1) * pair[1]);
        }
      }
    }
  }
}

// This warp's columns of the output: 64 tokens, kTiles * 16 value dims.
template <int kDim, int kTiles>
struct Output {
  float tile[4][2 * kTiles][4];

  // query S^T, weighted by query_scale l^(token + e).
  __device__ void FromState(const LightningState<kDim, kTiles>& state, uint32_t queries,
                            const DecayPowers& powers, float query_scale, int offset, int lane) {
#pragma unroll
    for (int j = 0; j < kDim / 16; ++j) {
      uint32_t operand[2 * kTiles][2];
#pragma unroll
      for (int n = 0; n < 2 * kTiles; ++n) {
        const auto& blocks = state.tile[n / 2];
        operand[n][0] = PackPair(blocks[2 * j][n % 2 * 2], blocks[2 * j][n % 2 * 2 + 1]);
        operand[n][1] = PackPair(blocks[2 * j + 1][n % 2 * 2], blocks[2 * j + 1][n % 2 * 2 + 1]);
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t query[4];
        LoadBlock<kDim>(queries, 16 * m, 16 * j, lane, query);
#pragma unroll
        for (int n = 0; n < 2 * kTiles; ++n) {
          MultiplyAdd(tile[m][n], query, operand[n][0], operand[n][1]);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float upper = query_scale * powers(16 * m + lane / 4 + offset);
      const float lower = query_scale * powers(16 * m + lane / 4 + 8 + offset);
#pragma unroll
      for (int n = 0; n < 2 * kTiles; ++n) {
        tile[m][n][0] *= upper;
        tile[m][n][1] *= upper;
        tile[m][n][2] *= lower;
        tile[m][n][3] *= lower;
      }
    }
  }

  // Adds P value of 16 tokens from 16 * block on.
  __device__ void Add(uint32_t scores, int block, const uint32_t (&values)[kTiles][4], int lane) {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      if (m < block) continue;
      uint32_t score[4];
      LoadBlock<kLightningChunk>(scores, 16 * m, 16 * block, lane, score);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        MultiplyAdd(tile[m][2 * i], score, values[i][0], values[i][2]);
        MultiplyAdd(tile[m][2 * i + 1], score, values[i][1], values[i][3]);
      }
    }
  }

  // Through this warp's columns of a tile in shared memory, so that whole sectors leave.
  __device__ void Store(char* staging, int first, BFloat16* out, int64_t step, int rows, int dim,
                        int lane) const {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int n = 0; n < 2 * kTiles; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = 16 * m + 8 * half + lane / 4;
          *reinterpret_cast<uint32_t*>(staging + ChunkOffset<kDim>(row, first / 8 + n) +
                                       4 * (lane % 4)) =
              PackPair(tile[m][n][2 * half], tile[m][n][2 * half + 1]);
        }
      }
    }
    __syncwarp();
    // Two pieces a row; eight lanes take every other row, whose pieces lie in different banks.
    const int row_of_lane = 2 * ((lane >> 1) & 3) + ((lane >> 3) & 1) + 8 * (lane >> 4);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int piece = first / 8 + 2 * i + (lane & 1);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const int row = 16 * m + row_of_lane;
        if (row < rows && piece * 8 < dim) {
          *reinterpret_cast<uint4*>(out + row * step + piece * 8) =
              *reinterpret_cast<const uint4*>(staging + ChunkOffset<kDim>(row, piece));
        }
      }
    }
  }
};

// Grid: x = (run, head, product), products fastest, so that those of a head read the same tensors
// at about the same time. A block of one warp per kTiles * 16 value dims takes a run.
template <int kDim, int kTiles>
__global__ void __launch_bounds__(Block<kDim, kTiles>::kThreads, 2)
    SweepKernel(const __grid_constant__ LightningSweepArgs args) {
  using B = Block<kDim, kTiles>;
  extern __shared__ __align__(128) char shared[];
  __shared__ DecayPowers powers;
  const LightningProduct& product = args.products[blockIdx.x % args.product_count];
  const auto item = static_cast<int32_t>(blockIdx.x / args.product_count);
  const LightningHead head = args.shape.heads_by_slope[item % args.shape.heads];
  const LightningRun run = product.runs[item / args.shape.heads];
  const int dim = args.shape.dim;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int first = warp * kTiles * 16;
  const int query_offset = product.reversed ? 0 : 1;
  const bool transposed = product.transposed;
  powers.Fill(head.slope);

  const int64_t row_size = int64_t{args.shape.heads} * dim;
  const int64_t step = product.reversed ? -row_size : row_size;
  const int64_t offset = run.first_row * row_size + int64_t{head.index} * dim;
  const auto* const query = static_cast<const BFloat16*>(product.query) + offset;
  const auto* const key = static_cast<const BFloat16*>(product.key) + offset;
  const auto* const value = static_cast<const BFloat16*>(product.value) + offset;
  auto* const out = static_cast<BFloat16*>(product.out) + offset;
  char* const scores = shared + 2 * B::kStageBytes;
  const auto chunks = static_cast<int>((run.count + kLightningChunk - 1) / kLightningChunk);
  const auto rows_of = [&](int chunk) {
    return static_cast<int>(
        min(int64_t{kLightningChunk}, run.count - int64_t{chunk} * kLightningChunk));
  };
  const auto load = [&](int chunk) {
    const uint32_t stage = SharedAddress(shared) + chunk % 2 * B::kStageBytes;
    const int64_t skip = int64_t{chunk} * kLightningChunk * step;
    const int rows = rows_of(chunk);
    LoadTileAsync<kDim, B::kThreads>(query + skip, step, rows, dim, stage);
    LoadTileAsync<kDim, B::kThreads>(key + skip, step, rows, dim, stage + B::kTileBytes);
    LoadTileAsync<kDim, B::kThreads>(value + skip, step, rows, dim, stage + 2 * B::kTileBytes);
    CommitCopies();
  };
  load(0);

  LightningState<kDim, kTiles> state;
  const auto at = [&](int32_t row) {
    return (int64_t{row} * args.shape.heads + head.index) * dim * dim;
  };
  bool has_state = true;
  if (run.start_scratch >= 0) {
    state.Load(product.scratch + at(run.start_scratch), first, dim, transposed);
  } else if (run.start_slot >= 0) {
    state.Load(product.start_states + at(run.start_slot), first, dim, transposed);
  } else {
    state.Clear();
    has_state = false;
  }
  const bool keeps_end = run.end_slot >= 0 && product.end_states != nullptr;

  for (int chunk = 0; chunk < chunks; ++chunk) {
    WaitForCopies<0>();
    __syncthreads();  // the chunk is there for all, and all have left the one before
    if (chunk + 1 < chunks) load(chunk + 1);
    char* const stage = shared + chunk % 2 * B::kStageBytes;
    const uint32_t queries = SharedAddress(stage);
    const uint32_t keys = queries + B::kTileBytes;
    const uint32_t values = keys + B::kTileBytes;
    const int rows = rows_of(chunk);

    ScoreStrips<kDim, B::kWarps>(queries, keys, powers, product.query_scale * product.key_scale,
                                 warp, lane, scores);
    Output<kDim, kTiles> output = {};
    if (has_state) {
      output.FromState(state, queries, powers, product.query_scale, query_offset, lane);
    }
    const bool advances = chunk + 1 < chunks || keeps_end;
    if (advances && has_state) state.Scale(powers(rows));
    __syncthreads();  // P is whole, and nobody reads the queries any more
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      uint32_t plain[kTiles][4], weighted[kTiles][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        LoadTransposed<kDim>(values, 16 * block, first + 16 * i, lane, plain[i]);
      }
      output.Add(SharedAddress(scores), block, plain, lane);
      if (advances) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          WeightValues(plain[i], powers, rows - query_offset, 16 * block, product.key_scale, lane,
                       weighted[i]);
        }
        state.Add(weighted, keys, 16 * block, lane);
      }
    }
    output.Store(stage, first, out + int64_t{chunk} * kLightningChunk * step, step, rows, dim,
                 lane);
    has_state = true;
  }
  if (keeps_end) {
    state.Store(first, dim, transposed, product.end_states + at(run.end_slot));
  }
}

template <int kDim, int kTiles>
absl::Status Launch(const ExecutionContext& context, const LightningSweepArgs& args) {
  using B = Block<kDim, kTiles>;
  const int64_t blocks = int64_t{args.run_count} * args.shape.heads * args.product_count;
  return Launch(context, "SweepKernel", SweepKernel<kDim, kTiles>,
                {.grid = {blocks}, .block = B::kThreads, .shared_bytes = B::kSharedBytes}, args);
}

}  // namespace

absl::Status LaunchLightningSweep(const ExecutionContext& context, const LightningSweepArgs& args) {
  if (args.run_count == 0) return absl::OkStatus();
  if (HasLightningWarpgroups(context, args.shape.dim)) {
    return LaunchLightningWarpgroupSweep(context, args);
  }
  if (args.shape.dim <= 32) return Launch<32, 1>(context, args);
  if (args.shape.dim <= 64) return Launch<64, 1>(context, args);
  return Launch<128, 2>(context, args);
}

}  // namespace salamander::cuda
