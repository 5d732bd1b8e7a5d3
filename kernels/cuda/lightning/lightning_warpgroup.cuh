// The parts that the Lightning kernels on Hopper's tensor cores share, for head dim 128: tiles of
// 64 tokens in panels (warpgroup.cuh), columns 0 to 63 before 64 to 127, and the state [value dim,
// key dim] in registers, of which each of two warpgroups holds a panel of value dims.
#ifndef KERNELS_CUDA_LIGHTNING_LIGHTNING_WARPGROUP_CUH_
#define KERNELS_CUDA_LIGHTNING_LIGHTNING_WARPGROUP_CUH_

#include <cstdint>

#include "kernels/cuda/lightning/lightning_tile.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda {

constexpr int kWarpgroupDim = 128;
constexpr int kStateGroups = kWarpgroupDim / kPanelColumns;
constexpr int kPanelBytes = kLightningChunk * kPanelRowBytes;
constexpr int kTileBytes = kStateGroups * kPanelBytes;

// One of kThreads threads' part of copying tiles: a 16-byte piece of every kThreads / 16th row.
template <int kThreads>
class TileLoader {
 public:
  __device__ TileLoader()
      : row_(static_cast<int>(threadIdx.x) % kThreads / kPieces),
        piece_(static_cast<int>(threadIdx.x) % kPieces),
        place_(piece_ / 8 * kPanelBytes + ChunkOffset<kPanelColumns>(row_, piece_ % 8)) {}

  // `first`: the chunk's first token; what lies past `rows` becomes zero.
  __device__ void Load(const BFloat16* first, int64_t step, int rows, uint32_t tile) const {
    const BFloat16* source = first + row_ * step + piece_ * kLanes;
    const int left = rows - row_;
#pragma unroll
    for (int i = 0; i < kLightningChunk / kRows; ++i) {
      const bool is_there = i * kRows < left;
      CopyAsync(tile + place_ + i * kRows * kPanelRowBytes, is_there ? source : first, is_there);
      source += kRows * step;
    }
  }

 private:
  static constexpr int kPieces = kWarpgroupDim / kLanes;
  static constexpr int kRows = kThreads / kPieces;
  static_assert(kRows % 8 == 0);  // the swizzle's period
  int row_, piece_, place_;
};

// A warpgroup's half of the state as its products' accumulator: of each 8 key dims the elements
// that MultiplyAdd's lanes hold.
using WarpgroupState = float[kWarpgroupDim / 8][4];

// Where this thread's block i of a stored state begins, [value dim, key dim] or the other way
// round, and how far its neighbours along either dim are.
template <bool kTransposed>
struct StatePlaces {
  static constexpr int kValueStep = kTransposed ? 1 : kWarpgroupDim;
  static constexpr int kKeyStep = kTransposed ? kWarpgroupDim : 1;
  static constexpr int kBlockStep = 8 * kKeyStep;

  __device__ static int First(int group) {
    int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    asm volatile("" : "+r"(thread));  // found anew each time: registers are scarce
    const int value = group * kPanelColumns + thread / kWarp * 16 + thread % kWarp / 4;
    return value * kValueStep + thread % 4 * 2 * kKeyStep;
  }
};

template <bool kTransposed>
__device__ inline void ReadState(const float* stored, int group, WarpgroupState& state) {
  using Places = StatePlaces<kTransposed>;
  const float* const source = stored + Places::First(group);
#pragma unroll
  for (int i = 0; i < kWarpgroupDim / 8; ++i) {
#pragma unroll
    for (int element = 0; element < 4; ++element) {
      state[i][element] = source[i * Places::kBlockStep + element / 2 * 8 * Places::kValueStep +
                                 element % 2 * Places::kKeyStep];
    }
  }
}

template <bool kTransposed>
__device__ inline void WriteState(const WarpgroupState& state, int group, float* stored) {
  using Places = StatePlaces<kTransposed>;
  float* const target = stored + Places::First(group);
#pragma unroll
  for (int i = 0; i < kWarpgroupDim / 8; ++i) {
#pragma unroll
    for (int element = 0; element < 4; ++element) {
      target[i * Places::kBlockStep + element / 2 * 8 * Places::kValueStep +
             element % 2 * Places::kKeyStep] = state[i][element];
    }
  }
}

__device__ inline void ClearState(WarpgroupState& state) {
#pragma unroll
  for (int i = 0; i < kWarpgroupDim / 8; ++i) {
#pragma unroll
    for (int element = 0; element < 4; ++element) state[i][element] = 0;
  }
}

// A piece in scratch lies in the order in which the threads of both warpgroups hold it: block i of
// thread t is the float4 at t of the i-th kPieceBlock.
constexpr int kPieceBlock = kStateGroups * kWarpgroup * 4;

__device__ inline void WritePiece(const WarpgroupState& state, int group, float* piece) {
  piece += 4 * (group * kWarpgroup + static_cast<int>(threadIdx.x) % kWarpgroup);
#pragma unroll
  for (int i = 0; i < kWarpgroupDim / 8; ++i) {
    *reinterpret_cast<float4*>(piece + i * kPieceBlock) =
        make_float4(state[i][0], state[i][1], state[i][2], state[i][3]);
  }
}

// state = decay state + piece.
__device__ inline void AddPiece(const float* piece, int group, float decay, WarpgroupState& state) {
  piece += 4 * (group * kWarpgroup + static_cast<int>(threadIdx.x) % kWarpgroup);
#pragma unroll
  for (int i = 0; i < kWarpgroupDim / 8; ++i) {
    const float4 added = __ldcg(reinterpret_cast<const float4*>(piece + i * kPieceBlock));
    state[i][0] = fmaf(decay, state[i][0], added.x);
    state[i][1] = fmaf(decay, state[i][1], added.y);
    state[i][2] = fmaf(decay, state[i][2], added.z);
    state[i][3] = fmaf(decay, state[i][3], added.w);
  }
}

// The same with the piece transposed: this thread's rows are the piece's key dims. Columns 8 i + c,
// the piece's value dims, are with lanes 4 c to 4 c + 3 of the (i / 2)-th warp, in the upper or the
// lower half of their blocks.
__device__ inline void AddTransposedPiece(const float* piece, int group, float decay,
                                          WarpgroupState& state) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp;
  const int row_block = group * 8 + warp * 2;
  const int row = lane / 4;
  piece += row_block * kPieceBlock + (2 * (lane % 4) * 4 + row / 2) * 4 + row % 2;
#pragma unroll
  for (int i = 0; i < kWarpgroupDim / 8; ++i) {
#pragma unroll
    for (int element = 0; element < 4; ++element) {
      const int place =
          element / 2 * kPieceBlock + (i / 2 * kWarp + element % 2 * 4) * 4 + i % 2 * 2;
      state[i][element] = fmaf(decay, state[i][element], __ldcg(piece + place));
    }
  }
}

__device__ inline void ScaleState(float factor, WarpgroupState& state) {
#pragma unroll
  for (auto& block : state) {
#pragma unroll
    for (float& element : block) element *= factor;
  }
}

// 16 tokens' values, as the left operand value^T, times weight[token].
__device__ inline void WeighValues(const uint32_t (&values)[4], const float* weight, int lane,
                                   uint32_t (&weighted)[4]) {
  weight += 2 * (lane % 4);
  weighted[0] = ScalePair(values[0], weight[0], weight[1]);
  weighted[1] = ScalePair(values[1], weight[0], weight[1]);
  weighted[2] = ScalePair(values[2], weight[8], weight[9]);
  weighted[3] = ScalePair(values[3], weight[8], weight[9]);
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_WARPGROUP_CUH_
