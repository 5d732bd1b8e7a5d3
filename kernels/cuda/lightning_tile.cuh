// The parts that the Lightning kernels on tensor cores share: tiles of 64 tokens in swizzled shared
// memory, and the state in registers.
//
// A tile row holds the kDim elements of a token (kDim: head dim rounded up to 32, 64 or 128; what
// lies past the head dim or the last token is zero). Its pieces of 16 bytes are permuted by the
// row, so that the eight rows of an ldmatrix lie in different banks.
//
// The state is kept as [value dim, key dim], fp32, in the accumulators of mma.m16n8k16: a warp owns
// kTiles * 16 value dims and all key dims. Lane 4 g + t of a warp holds, of each 16 x 8 tile,
// elements (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1): rounded to bf16, the B operand of
// query [tokens, key dim] times state^T [key dim, value dim] as it stands.
#ifndef KERNELS_CUDA_LIGHTNING_TILE_CUH_
#define KERNELS_CUDA_LIGHTNING_TILE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/lightning_plan.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {

constexpr int kPieceBytes = 16;

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Byte offset of a piece in a tile with rows of kDim elements.
template <int kDim>
__device__ inline uint32_t PieceOffset(int row, int piece) {
  static_assert(kDim == 32 || kDim % 64 == 0);
  const int key = kDim == 32 ? (row >> 1) & 3 : row & 7;
  return static_cast<uint32_t>(row * kDim * 2 + (piece ^ key) * kPieceBytes);
}

__device__ inline void CopyPieceAsync(uint32_t destination, const void* source, bool is_there) {
  const int bytes = is_there ? kPieceBytes : 0;  // the rest of the piece becomes zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(destination), "l"(source),
               "r"(bytes)
               : "memory");
}
__device__ inline void CommitCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

__device__ inline void LoadMatrices(uint32_t address, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}
__device__ inline void LoadMatricesTransposed(uint32_t address, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

// sum [16, 8] += a [16, 16] b [16, 8]
__device__ inline void MultiplyAdd(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                   float (&sum)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t PackPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// `pair` times (low, high), rounded again.
__device__ inline uint32_t ScalePair(uint32_t pair, float low, float high) {
  const float2 values = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  return PackPair(values.x * low, values.y * high);
}

// The 16 x 16 block at (row, column) of a tile, as the A operand: lanes hold rows.
template <int kDim>
__device__ inline void LoadBlock(uint32_t tile, int row, int column, int lane, uint32_t (&x)[4]) {
  LoadMatrices(tile + PieceOffset<kDim>(row + (lane & 15), column / 8 + (lane >> 4)), x);
}

// The same block as the B operand [column, row]: (x0, x1) for rows 0 to 7, (x2, x3) for 8 to 15.
template <int kDim>
__device__ inline void LoadColumns(uint32_t tile, int row, int column, int lane, uint32_t (&x)[4]) {
  const int in_row = (lane & 7) + 8 * (lane >> 4);
  LoadMatrices(tile + PieceOffset<kDim>(row + in_row, column / 8 + ((lane >> 3) & 1)), x);
}

// The same block as the B operand [row, column]: (x0, x1) for columns 0 to 7, (x2, x3) for 8 to 15.
template <int kDim>
__device__ inline void LoadRows(uint32_t tile, int row, int column, int lane, uint32_t (&x)[4]) {
  const int in_row = (lane & 7) + 8 * ((lane >> 3) & 1);
  LoadMatricesTransposed(tile + PieceOffset<kDim>(row + in_row, column / 8 + (lane >> 4)), x);
}

// The same block as the A operand [column, row]; (x0, x2) and (x1, x3) are the B operand
// [row, column] for columns 0 to 7 and 8 to 15.
template <int kDim>
__device__ inline void LoadTransposed(uint32_t tile, int row, int column, int lane,
                                      uint32_t (&x)[4]) {
  const int in_row = (lane & 7) + 8 * (lane >> 4);
  LoadMatricesTransposed(tile + PieceOffset<kDim>(row + in_row, column / 8 + ((lane >> 3) & 1)), x);
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
    CopyPieceAsync(tile + PieceOffset<kDim>(row, piece),
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
        MultiplyAdd(values[i], key[0], key[1], tile[i][2 * j]);
        MultiplyAdd(values[i], key[2], key[3], tile[i][2 * j + 1]);
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

#endif  // KERNELS_CUDA_LIGHTNING_TILE_CUH_
