// The instructions of the tensor cores that every part since sm_80 has: mma.sync m16n8k16 of bf16
// with fp32 accumulation, ldmatrix, cp.async, and the layout of a tile in shared memory that all
// three go with.
#ifndef KERNELS_CUDA_TENSOR_CORE_CUH_
#define KERNELS_CUDA_TENSOR_CORE_CUH_

#include <cstdint>

#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Byte offset of the 16-byte chunk `chunk` of row `row` in a tile with rows of kColumns bf16. The
// chunks are permuted by the row, so that the eight rows of an ldmatrix meet all banks once.
template <int kColumns>
__device__ inline int ChunkOffset(int row, int chunk) {
  static_assert(kColumns == 32 || kColumns % 64 == 0);
  const int permutation = kColumns == 32 ? (row >> 1) & 3 : row & 7;
  return row * (kColumns * 2) + ((chunk ^ permutation) << 4);
}

// d += a b, a: 16 x 16 rows, b: 16 x 8 columns. Lane l holds rows l / 4 and l / 4 + 8, columns
// l % 4 * 2 and the next of d.
__device__ inline void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void LoadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline void LoadMatricesTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
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

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_TENSOR_CORE_CUH_
