// Products of tiles of bf16 in shared memory on the tensor cores, as block attention and block
// selection take them.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_MMA_CUH_
#define KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_MMA_CUH_

#include <cstdint>

#include <cuda_bf16.h>

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {

constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;

// Requires: finite or -infinity; 2^-infinity = 0.
__device__ inline float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// A tile of rows of kD columns in shared memory.
template <int kD>
class SharedTile {
 public:
  static constexpr int kChunks = kD / kLanes;  // of 16 bytes, in a row
  static constexpr int Bytes(int rows) { return rows * kD * 2; }

  __device__ explicit SharedTile(void* memory)
      : memory_(static_cast<char*>(memory)), address_(SharedAddress(memory)) {}

  __device__ uint32_t Address(int row, int chunk) const {
    return address_ + ChunkOffset<kD>(row, chunk);
  }

  // 16 rows from `row`, 16 columns from 2 * chunk: the left operand of a product.
  __device__ void LoadLeft(int row, int step, uint32_t (&a)[4]) const {
    const int lane = threadIdx.x % kWarp;
    LoadMatrices(a, Address(row + (lane & 15), 2 * step + (lane >> 4)));
  }
  // 16 rows as columns of the right operand, transposed: product over the tile's columns.
  // b[0], b[1] belong to the first 8 rows, b[2], b[3] to the others.
  __device__ void LoadRightTransposed(int row, int step, uint32_t (&b)[4]) const {
    const int lane = threadIdx.x % kWarp;
    LoadMatrices(b, Address(row + (lane & 7) + ((lane >> 4) << 3), 2 * step + ((lane >> 3) & 1)));
  }
  // 16 rows x 16 columns as they lie: product over the tile's rows. b[0], b[1] belong to the first
  // 8 columns, b[2], b[3] to the others.
  __device__ void LoadRight(int row, int step, uint32_t (&b)[4]) const {
    const int lane = threadIdx.x % kWarp;
    LoadMatricesTransposed(b, Address(row + (lane & 15), 2 * step + (lane >> 4)));
  }

  // Chunk `chunk` of `row` from `source`, the row's first element in global memory, element by
  // element, with zeros beyond `columns`; null: zeros.
  __device__ void FillByElement(int row, int chunk, const BFloat16* source, int columns) const {
    auto* const destination = reinterpret_cast<BFloat16*>(memory_ + ChunkOffset<kD>(row, chunk));
    for (int i = 0; i < kLanes; ++i) {
      const int column = chunk * kLanes + i;
      destination[i] =
          source != nullptr && column < columns ? source[column] : __float2bfloat16(0.0F);
    }
  }

 private:
  char* memory_;
  uint32_t address_;
};

// Adds the products of 16 rows with rows [right_row, right_row + count) of `right`, over kD
// columns, to d. load_left(step, a) gives the left operand of columns 16 * step on. Rows beyond the
// count are zeros or left out.
template <int kD, int kPairs, typename LoadLeft>
__device__ void MultiplyRows(const LoadLeft& load_left, const SharedTile<kD>& right, int right_row,
                             int count, float (&d)[2 * kPairs][4]) {
  const auto multiply = [&](const uint32_t(&a)[4], int step, int pair) {
    uint32_t b[4];
    right.LoadRightTransposed(right_row + pair * 16, step, b);
    MultiplyAdd(d[2 * pair], a, b[0], b[1]);
    MultiplyAdd(d[2 * pair + 1], a, b[2], b[3]);
  };
  if (count > (kPairs - 1) * 16) {
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      uint32_t a[4];
      load_left(step, a);
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) multiply(a, step, pair);
    }
    return;
  }
#pragma unroll
  for (int pair = 0; pair < kPairs - 1; ++pair) {
    if (pair * 16 >= count) break;
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      uint32_t a[4];
      load_left(step, a);
      multiply(a, step, pair);
    }
  }
}

// The accumulators of 16 columns as a left operand, rounded to bf16.
__device__ inline void AsLeft(const float (&first)[4], const float (&second)[4], uint32_t (&a)[4]) {
  a[0] = PackPair(first[0], first[1]);
  a[1] = PackPair(first[2], first[3]);
  a[2] = PackPair(second[0], second[1]);
  a[3] = PackPair(second[2], second[3]);
}

// Adds weights [16, kPairs * 16] times rows [right_row, right_row + count) of `right` to d [16,
// kD]. Rows beyond the count are zeros or left out.
template <int kD, int kPairs>
__device__ void MultiplyWeights(const float (&weights)[2 * kPairs][4], const SharedTile<kD>& right,
                                int right_row, int count, float (&d)[kD / 8][4]) {
  const auto multiply = [&](int pair) {
    uint32_t a[4];
    AsLeft(weights[2 * pair], weights[2 * pair + 1], a);
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      uint32_t b[4];
      right.LoadRight(right_row + pair * 16, step, b);
      MultiplyAdd(d[2 * step], a, b[0], b[1]);
      MultiplyAdd(d[2 * step + 1], a, b[2], b[3]);
    }
  };
  if (count > (kPairs - 1) * 16) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) multiply(pair);
    return;
  }
#pragma unroll
  for (int pair = 0; pair < kPairs - 1; ++pair) {
    if (pair * 16 < count) multiply(pair);
  }
}

template <typename Value, int kCount>
__device__ void SetZero(Value (&d)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) d[i][j] = Value(0);
  }
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_MMA_CUH_
