// Tiles of bf16 in shared memory and the tensor cores' view of them: mma.sync m16n8k16 with fp32
// accumulation, ldmatrix, cp.async. A tile has kD columns and its 16-byte chunks are permuted
// within the row, so that the eight rows of an ldmatrix meet all banks once.
#ifndef KERNELS_CUDA_BLOCK_ATTENTION_MMA_CUH_
#define KERNELS_CUDA_BLOCK_ATTENTION_MMA_CUH_

#include <cstdint>

#include <cuda_bf16.h>

#include "kernels/cuda/rows.cuh"
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

// d += a b, a: 16 x 16 rows, b: 16 x 8 columns. Lane l holds rows l / 4 and l / 4 + 8, columns
// l % 4 * 2 and the next of d.
__device__ inline void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void LoadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline void LoadMatricesTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Copies 16 bytes, or writes 16 zero bytes where `is_read` is false.
__device__ inline void CopyAsync(uint32_t destination, const void* source, bool is_read) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
               "r"(is_read ? 16 : 0)
               : "memory");
}

__device__ inline void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Returns when at most kPending of the newest groups are under way.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A tile of rows of kD columns in shared memory.
template <int kD>
class SharedTile {
 public:
  static constexpr int kChunks = kD / kLanes;  // of 16 bytes, in a row
  static constexpr int Bytes(int rows) { return rows * kD * 2; }

  __device__ explicit SharedTile(void* memory)
      : memory_(static_cast<char*>(memory)),
        address_(static_cast<uint32_t>(__cvta_generic_to_shared(memory))) {}

  __device__ static int Offset(int row, int chunk) {
    const int permutation = kChunks >= 8 ? (row & 7) : ((row >> 1) & 3);
    return row * (kD * 2) + ((chunk ^ permutation) << 4);
  }
  __device__ uint32_t Address(int row, int chunk) const { return address_ + Offset(row, chunk); }

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
    auto* const destination = reinterpret_cast<BFloat16*>(memory_ + Offset(row, chunk));
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

template <int kCount>
__device__ void SetZero(float (&d)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) d[i][j] = 0.0F;
  }
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_BLOCK_ATTENTION_MMA_CUH_
