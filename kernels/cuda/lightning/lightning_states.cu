// States at the starts of runs (lightning_plan.h): the states kernel sums each piece's
//   S = sum_j key_scale l^(count-e-j) value_j key_j^T
// over the tokens that a head still remembers at its run's end, the scan chains the pieces of a
// segment. Layout and operands as in lightning_tile.cuh. The first kernel is bound by
// reading keys and values: three chunks are in flight per block.
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/lightning/lightning_kernels.h"
#include "kernels/cuda/lightning/lightning_tile.cuh"

namespace salamander::cuda {
namespace {

constexpr int kStages = 3;

template <int kDim>
struct Block {
  static constexpr int kTiles = kDim == 128 ? 2 : 1;  // two halve what is read of shared memory
  static constexpr int kThreads = kWarp * kDim / (16 * kTiles);
  static constexpr int kTileBytes = kLightningChunk * kDim * 2;
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

// Grid: x = (head by slope, contributing piece) with the longest memories first, y = walk. A block
// of one warp per kTiles * 16 value dims takes a piece.
template <int kDim>
__global__ void __launch_bounds__(Block<kDim>::kThreads, 2)
    StatesKernel(const __grid_constant__ LightningStatesArgs args) {
  using B = Block<kDim>;
  extern __shared__ __align__(128) char shared[];
  __shared__ DecayPowers powers;
  const LightningStates& walk = args.walks[blockIdx.y];
  const auto block = static_cast<int32_t>(blockIdx.x);
  const LightningHead head = args.shape.heads_by_slope[block / args.contributing_count];
  const int32_t piece = block % args.contributing_count;
  const LightningRun run = walk.contributing[piece];
  const int dim = args.shape.dim;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first = static_cast<int>(threadIdx.x) / kWarp * B::kTiles * 16;
  const int64_t state_size = int64_t{dim} * dim;
  const auto at = [&](int32_t row) {
    return (int64_t{row} * args.shape.heads + head.index) * state_size;
  };
  powers.Fill(head.slope);

  const auto chunks = static_cast<int>((run.count + kLightningChunk - 1) / kLightningChunk);
  const int32_t remembered =
      RememberedChunks(head, piece, args.pieces_of_run, args.chunks_of_piece);
  const int begin = max(0, chunks - remembered);
  if (run.start_slot >= 0) {
    const auto* const from =
        reinterpret_cast<const float4*>(walk.start_states + at(run.start_slot));
    auto* const to = reinterpret_cast<float4*>(walk.scratch + at(run.start_scratch));
    for (int i = static_cast<int>(threadIdx.x); i < dim * dim / 4; i += B::kThreads)
      to[i] = from[i];
  }
  if (remembered <= 0) return;
  LightningState<kDim, B::kTiles> state;
  if (run.start_slot >= 0 && begin == 0) {
    state.Load(walk.start_states + at(run.start_slot), first, dim, false);
  } else {
    state.Clear();
  }

  const int64_t row_size = int64_t{args.shape.heads} * dim;
  const int64_t step = walk.reversed ? -row_size : row_size;
  const int64_t offset = run.first_row * row_size + int64_t{head.index} * dim;
  const auto* const key = static_cast<const BFloat16*>(walk.key) + offset;
  const auto* const value = static_cast<const BFloat16*>(walk.value) + offset;
  const uint32_t stages = SharedAddress(shared);
  const auto load = [&](int chunk) {
    if (chunk < chunks) {
      const uint32_t stage = stages + (chunk - begin) % kStages * B::kStageBytes;
      const int64_t row = int64_t{chunk} * kLightningChunk;
      const auto rows = static_cast<int>(min(int64_t{kLightningChunk}, run.count - row));
      LoadTileAsync<kDim, B::kThreads>(key + row * step, step, rows, dim, stage);
      LoadTileAsync<kDim, B::kThreads>(value + row * step, step, rows, dim, stage + B::kTileBytes);
    }
    CommitCopies();
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) load(begin + i);
  for (int chunk = begin; chunk < chunks; ++chunk) {
    WaitForCopies<kStages - 2>();
    __syncthreads();  // the chunk is there for all, and all have left the one before
    load(chunk + kStages - 1);
    const uint32_t keys = stages + (chunk - begin) % kStages * B::kStageBytes;
    const auto count = static_cast<int>(
        min(int64_t{kLightningChunk}, run.count - int64_t{chunk} * kLightningChunk));
    const int last = walk.reversed ? count : count - 1;
    state.Scale(powers(count));
#pragma unroll
    for (int row = 0; row < kLightningChunk; row += 16) {
      uint32_t values[4], weighted[B::kTiles][4];
#pragma unroll
      for (int i = 0; i < B::kTiles; ++i) {
        LoadTransposed<kDim>(keys + B::kTileBytes, row, first + 16 * i, lane, values);
        WeightValues(values, powers, last, row, walk.key_scale, lane, weighted[i]);
      }
      state.Add(weighted, keys, row, lane);
    }
  }
  state.Store(first, dim, false, walk.scratch + at(run.end_scratch));
}

constexpr int kScanThreads = 128;
constexpr int kScanAhead = 8;  // states whose loads are in flight at once

// Turns the contribution of each run's last piece into the state at its end. Grid: x = four
// elements of a state per thread, y = (chain, head by slope), z = walk.
__global__ void __launch_bounds__(kScanThreads)
    ScanKernel(const __grid_constant__ LightningStatesArgs args) {
  const int64_t quads = int64_t{args.shape.dim} * args.shape.dim / 4;
  const int64_t quad = int64_t{blockIdx.x} * kScanThreads + threadIdx.x;
  if (quad >= quads) return;
  const LightningStates& walk = args.walks[blockIdx.z];
  const LightningChain chain = walk.chains[blockIdx.y / args.shape.heads];
  const LightningHead head = args.shape.heads_by_slope[blockIdx.y % args.shape.heads];
  const int64_t stride = args.shape.heads * quads;
  auto* const states = reinterpret_cast<float4*>(walk.scratch) +
                       (int64_t{chain.first_scratch} * args.shape.heads + head.index) * quads +
                       quad;
  float4 state = {};
  for (int32_t begin = 0; begin < chain.pieces; begin += kScanAhead) {
    float4 ahead[kScanAhead];
#pragma unroll
    for (int i = 0; i < kScanAhead; ++i) {
      ahead[i] = {};
      const int32_t piece = begin + i;
      if (piece < chain.pieces &&
          RememberedChunks(head, piece, args.pieces_of_run, args.chunks_of_piece) > 0) {
        ahead[i] = states[(piece + 1) * stride];
      }
    }
#pragma unroll
    for (int i = 0; i < kScanAhead; ++i) {
      const int32_t piece = begin + i;
      if (piece >= chain.pieces) break;
      state.x = fmaf(head.piece_decay, state.x, ahead[i].x);
      state.y = fmaf(head.piece_decay, state.y, ahead[i].y);
      state.z = fmaf(head.piece_decay, state.z, ahead[i].z);
      state.w = fmaf(head.piece_decay, state.w, ahead[i].w);
      if (piece % args.pieces_of_run == args.pieces_of_run - 1) {
        states[(piece + 1) * stride] = state;
      }
    }
  }
}

template <int kDim>
absl::Status LaunchStates(const ExecutionContext& context, const LightningStatesArgs& args) {
  const Grid grid = {args.contributing_count * args.shape.heads, args.walk_count};
  return Launch(
      context, "StatesKernel", StatesKernel<kDim>,
      {.grid = grid, .block = Block<kDim>::kThreads, .shared_bytes = Block<kDim>::kSharedBytes},
      args);
}

absl::Status LaunchScan(const ExecutionContext& context, const LightningStatesArgs& args) {
  const int64_t quads = int64_t{args.shape.dim} * args.shape.dim / 4;
  const Grid grid = {CeilDivide(quads, kScanThreads), args.chain_count * args.shape.heads,
                     args.walk_count};
  return Launch(context, "ScanKernel", ScanKernel, {.grid = grid, .block = kScanThreads}, args);
}

}  // namespace

absl::Status LaunchLightningStates(const ExecutionContext& context,
                                   const LightningStatesArgs& args) {
  if (args.contributing_count == 0) return absl::OkStatus();
  const int32_t dim = args.shape.dim;
  RETURN_IF_ERROR(dim <= 32   ? LaunchStates<32>(context, args)
                  : dim <= 64 ? LaunchStates<64>(context, args)
                              : LaunchStates<128>(context, args));
  return args.chain_count == 0 ? absl::OkStatus() : LaunchScan(context, args);
}

}  // namespace salamander::cuda
