// The parts that the Lightning kernels on tensor cores share: tiles of 64 tokens in swizzled shared
// memory, and the state in registers.
//
// A tile row holds the kDim elements of a token (kDim: head dim rounded up to 32, 64 or 128; what
// lies past the head dim or the last token is zero), as ChunkOffset lays them out.
//
// The state is kept as [value dim, key dim], fp32, in the accumulators of mma.m16n8k16: a warp owns
// kTiles * 16 value dims and all key dims. Lane 4 g + t of a warp holds, of each 16 x 8 tile,
// elements (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1): rounded to bf16, the B operand of
// query [tokens, key dim] times state^T [key dim, value dim] as it stands.
#ifndef KERNELS_CUDA_LIGHTNING_LIGHTNING_TILE_CUH_
#define KERNELS_CUDA_LIGHTNING_LIGHTNING_TILE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/lightning/lightning_plan.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {

// How many chunks of this piece and those before it a head still remembers at the end of the
// piece's run; none where that is not positive.
__device__ inline int32_t RememberedChunks(const LightningHead& head, int32_t piece,
                                           int32_t pieces_of_run, int32_t chunks_of_piece) {
  return head.memory_chunks - (pieces_of_run - 1 - piece % pieces_of_run) * chunks_of_piece;
}

// `pair` times (low, high), rounded again.
__device__ inline uint32_t ScalePair(uint32_t pair, float low, float high) {
  const float2 values = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  return PackPair(values.x * low, values.y * high);
}

// The 16 x 16 block at (row, column) of a tile, as the A operand: lanes hold rows.
template <int kDim>
__device__ inline void LoadBlock(uint32_t tile, int row, int column, int lane, uint32_t (&x)[4]) {
  LoadMatrices(x, tile + ChunkOffset<kDim>(row + (lane & 15), column / 8 + (lane >> 4)));
}

// The same block as the B operand [column, row]: (x0, x1) for rows 0 to 7, (x2, x3) for 8 to 15.
template <int kDim>
__device__ inline void LoadColumns(uint32_t tile, int row, int column, int lane, uint32_t (&x)[4]) {
  const int in_row = (lane & 7) + 8 * (lane >> 4);
  LoadMatrices(x, tile + ChunkOffset<kDim>(row + in_row, column / 8 + ((lane >> 3) & 1)));
}

// The same block as the B operand [row, column]: (x0, x1) for columns 0 to 7, (x2, x3) for 8 to 15.
template <int kDim>
__device__ inline void LoadRows(uint32_t tile, int row, int column, int lane, uint32_t (&x)[4]) {
  const int in_row = (lane & 7) + 8 * ((lane >> 3) & 1);
  LoadMatricesTransposed(x, tile + ChunkOffset<kDim>(row + in_row, column / 8 + (lane >> 4)));
}

// The same block as the A operand [column, row]; (x0, x2) and (x1, x3) are the B operand
// [row, column] for columns 0 to 7 and 8 to 15.
template <int kDim>
__device__ inline void LoadTransposed(uint32_t tile, int row, int column, int lane,
                                      uint32_t (&x)[4]) {
  const int in_row = (lane & 7) + 8 * (lane >> 4);
  LoadMatricesTransposed(x, tile + ChunkOffset<kDim>(row + in_row, column / 8 + ((lane >> 3) & 1)));
}

// Copies `rows` rows of `dim` elements, `step` elements apart, into a tile; the rest becomes zero.
template <int kDim, int kThreads>
__device__ inline void LoadTileAsync(const BFloat16* first, int64_t step, int rows, int dim,
                                     uint32_t tile) {
  constexpr int kPieces = kDim / 8;
  static_assert(kThreads % kPieces == 0);
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
#pragma unroll
  for (int i = 0; i < kLightningChunk * kPieces / kThreads; ++i) {
    const int row = static_cast<int>(threadIdx.x) / kPieces + i * (kThreads / kPieces);
    const bool is_there = row < rows && piece * 8 < dim;
    CopyAsync(tile + ChunkOffset<kDim>(row, piece),
              is_there ? first + row * step + piece * 8 : first, is_there);
  }
}

// exp(-slope n) for n in [-63, 64], and 0 for negative n: the pairs that causality hides, and
// tokens past the end. 64 is the longest exponent that a chunk needs, and none is ever positive.
class DecayPowers {
 public:
  // Every thread of the block calls; visible after the next __syncthreads().
  __device__ void Fill(double slope) {
    for (int i = static_cast<int>(threadIdx.x); i < kCount; i += static_cast<int>(blockDim.x)) {
      const int n = i - kNegative;
      power_[i] = n < 0 ? 0.0F : static_cast<float>(exp(-slope * n));
    }
  }
  __device__ float operator()(int n) const { return power_[n + kNegative]; }

 private:
  static constexpr int kNegative = kLightningChunk - 1;
  static constexpr int kCount = 2 * kLightningChunk;
  float power_[kCount];
};

// This warp's rows of the state, from value dim `first` on.
template <int kDim, int kTiles>
struct LightningState {
  float tile[kTiles][kDim / 8][4];

  // Calls visit(value dim, key dim, element) for the first of every two elements along the key dim.
  template <typename Visit>
  __device__ void ForEachPair(int first, int dim, Visit visit) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int value = first + 16 * i + 8 * half + lane / 4;
          const int key = 8 * j + 2 * (lane % 4);
          if (value < dim && key < dim) visit(value, key, &tile[i][j][2 * half]);
        }
      }
    }
  }

  __device__ void Clear() {
#pragma unroll
    for (auto& row : tile) {
#pragma unroll
      for (auto& block : row) {
#pragma unroll
        for (float& element : block) element = 0;
      }
    }
  }

  __device__ void Scale(float factor) {
#pragma unroll
    for (auto& row : tile) {
#pragma unroll
      for (auto& block : row) {
#pragma unroll
        for (float& element : block) element *= factor;
      }
    }
  }

  // `stored`: one head, [value dim, key dim], or the other way round where `transposed`.
  __device__ void Load(const float* stored, int first, int dim, bool transposed) {
    Clear();
    if (transposed) {
      ForEachPair(first, dim, [&](int value, int key, float* element) {
        element[0] = stored[key * dim + value];
        element[1] = stored[(key + 1) * dim + value];
      });
      return;
    }
    ForEachPair(first, dim, [&](int value, int key, float* element) {
      const float2 pair = *reinterpret_cast<const float2*>(stored + value * dim + key);
      element[0] = pair.x;
      element[1] = pair.y;
    });
  }

  __device__ void Store(int first, int dim, bool transposed, float* stored) {
    if (transposed) {
      ForEachPair(first, dim, [&](int value, int key, const float* element) {
        stored[key * dim + value] = element[0];
        stored[(key + 1) * dim + value] = element[1];
      });
      return;
    }
    ForEachPair(first, dim, [&](int value, int key, const float* element) {
      *reinterpret_cast<float2*>(stored + value * dim + key) = make_float2(element[0], element[1]);
    });
  }

  // Adds value^T key of 16 tokens from `row` on. `values` are the tokens' value blocks as the A
  // operand, weighted.
  __device__ void Add(const uint32_t (&values)[kTiles][4], uint32_t keys, int row, int lane) {
#pragma unroll
    for (int j = 0; j < kDim / 16; ++j) {
      uint32_t key[4];
      LoadRows<kDim>(keys, row, 16 * j, lane, key);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        MultiplyAdd(tile[i][2 * j], values[i], key[0], key[1]);
        MultiplyAdd(tile[i][2 * j + 1], values[i], key[2], key[3]);
      }
    }
  }
};

// A value block of 16 tokens from `row` on, as the A operand, times key_scale l^(count - e -
// token).
__device__ inline void WeightValues(const uint32_t (&values)[4], const DecayPowers& powers,
                                    int last, int row, float key_scale, int lane,
                                    uint32_t (&weighted)[4]) {
  const int token = row + 2 * (lane % 4);
  float weight[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    weight[i] = key_scale * powers(last - token - (i & 1) - 8 * (i >> 1));
  }
  weighted[0] = ScalePair(values[0], weight[0], weight[1]);
  weighted[1] = ScalePair(values[1], weight[0], weight[1]);
  weighted[2] = ScalePair(values[2], weight[2], weight[3]);
  weighted[3] = ScalePair(values[3], weight[2], weight[3]);
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_TILE_CUH_
