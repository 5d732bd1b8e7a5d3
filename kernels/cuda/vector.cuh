// Types and constants that all kernels share, and sums over warps and blocks in a fixed order.
#ifndef KERNELS_CUDA_VECTOR_CUH_
#define KERNELS_CUDA_VECTOR_CUH_

#include <cstdint>

#include <cuda_bf16.h>

namespace salamander::cuda {

using BFloat16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xFFFFFFFFU;

constexpr int kLanes = 8;  // bf16 in one access of 16 bytes

// The sum over the warp, on every lane, in a fixed order.
template <typename Value>
__device__ Value WarpSum(Value value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullMask, value, offset);
  }
  return value;
}

__device__ inline float WarpMax(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kFullMask, value, offset));
  }
  return value;
}

// The sum over the block, on every thread, in a fixed order. `scratch` holds kWarp values of shared
// memory, is free again after the next __syncthreads(), and every thread of the block calls.
template <typename Value>
__device__ Value BlockSum(Value value, Value* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x + kWarp - 1) / kWarp;
  value = WarpSum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  Value total = lane < warps ? scratch[lane] : Value(0);
  return WarpSum(total);
}

constexpr int64_t CeilDivide(int64_t count, int64_t divisor) {
  return (count + divisor - 1) / divisor;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_VECTOR_CUH_
