// What the kernels that pass over rows of bf16 share: access to eight neighbouring elements, by one
// load where the tensor's place and width allow it and one by one elsewhere.
#ifndef KERNELS_CUDA_ROWS_CUH_
#define KERNELS_CUDA_ROWS_CUH_

#include <cstdint>
#include <initializer_list>

#include "kernels/base/logging.h"
#include "kernels/base/tensor_view.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {

// Null where the view is empty.
inline BFloat16* BFloat16Data(const TensorView& tensor) {
  SALAMANDER_CHECK(tensor.empty() || tensor.dtype() == DType::kBFloat16)
      << "tensor holds " << Name(tensor.dtype()) << ", an activation or parameter is bfloat16 here";
  return static_cast<BFloat16*>(tensor.raw());
}

template <typename Element>
Element* DataOrNull(const TensorView& tensor) {
  return tensor.empty() ? nullptr : tensor.data<Element>();
}

// Null is aligned.
inline bool AreAligned(std::initializer_list<const void*> pointers, uintptr_t bytes = 16) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) return false;
  }
  return true;
}

// Eight bf16 as they lie in memory. A built-in type, since the compiler splits the load of a struct
// of bf16 pairs into four.
using Packed = uint4;

__device__ inline void Unpack(const Packed& packed, float (&values)[kLanes]) {
  const uint32_t pairs[kLanes / 2] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < kLanes / 2; ++i) {
    values[2 * i] = __uint_as_float(pairs[i] << 16);
    values[2 * i + 1] = __uint_as_float(pairs[i] & 0xFFFF0000U);
  }
}

__device__ inline uint32_t PackPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ inline Packed PackEight(const float (&values)[kLanes]) {
  return {PackPair(values[0], values[1]), PackPair(values[2], values[3]),
          PackPair(values[4], values[5]), PackPair(values[6], values[7])};
}

// Elements [begin, begin + 8) of `count`; those from `count` on are zero. Requires: where
// is_aligned, begin + 8 <= count and a whole vector at the address.
__device__ inline Packed LoadPacked(const BFloat16* source, int64_t begin, int64_t count,
                                    bool is_aligned) {
  if (is_aligned) return *reinterpret_cast<const Packed*>(source + begin);
  float values[kLanes];
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    values[i] = begin + i < count ? __bfloat162float(source[begin + i]) : 0.0F;
  }
  return PackEight(values);
}

// The counterpart: elements from `count` on are not written.
__device__ inline void StorePacked(const Packed& packed, BFloat16* destination, int64_t begin,
                                   int64_t count, bool is_aligned) {
  if (is_aligned) {
    *reinterpret_cast<Packed*>(destination + begin) = packed;
    return;
  }
  float values[kLanes];
  Unpack(packed, values);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    if (begin + i < count) destination[begin + i] = __float2bfloat16(values[i]);
  }
}

// Which threads share a row: `threads` of them, a multiple of the warp, and, where that is one
// warp, several rows to a block.
struct RowBlock {
  int threads = kWarp;
  int rows = 1;

  // Requires: `vectors_per_thread` such that a block suffices for `width`.
  RowBlock(int64_t width, int vectors_per_thread) {
    const int64_t vectors = CeilDivide(width, kLanes);
    threads = static_cast<int>(CeilDivide(CeilDivide(vectors, vectors_per_thread), kWarp)) * kWarp;
    if (threads == kWarp) rows = kWarpsPerBlock;
  }

  dim3 dims() const { return dim3(threads, rows); }

  static constexpr int kWarpsPerBlock = 4;
};

// For rows of any width, which threads pass over in strides: how many of a block's kRowThreads
// share a row, a power of two of whole warps, no more than the row has vectors.
constexpr int kRowThreads = 256;

inline int ThreadsPerRow(int64_t width) {
  int threads = kRowThreads;
  while (threads > kWarp && threads / 2 * kLanes >= width) threads /= 2;
  return threads;
}

// The sum over a row's threads in a RowBlock, as BlockSum.
__device__ inline float RowSum(float value, float* scratch) {
  return blockDim.x == kWarp ? WarpSum(value) : BlockSum(value, scratch);
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ROWS_CUH_
