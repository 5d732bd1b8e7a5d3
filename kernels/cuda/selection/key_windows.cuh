// The windows of keys whose means are the pooled keys of block selection, at both levels.
#ifndef KERNELS_CUDA_SELECTION_KEY_WINDOWS_CUH_
#define KERNELS_CUDA_SELECTION_KEY_WINDOWS_CUH_

#include <cstdint>

#include "kernels/block_selection.h"

namespace salamander::cuda {

// Rows, positions, windows and work items fit into 32 bits, and the division of 64 bits takes many
// registers.
__host__ __device__ constexpr int Quotient(int64_t dividend, int64_t divisor) {
  return static_cast<int>(static_cast<uint32_t>(dividend) / static_cast<uint32_t>(divisor));
}

// Windows of one level over a segment's keys.
struct Windows {
  int64_t size, stride;

  // Windows that end before position `keys`.
  __host__ __device__ int64_t Count(int64_t keys) const {
    return keys < size ? 0 : Quotient(keys - size, stride) + 1;
  }
  __host__ __device__ int64_t LastPosition(int64_t window) const {
    return window * stride + size - 1;
  }
  // Windows that end at `position` or later start here.
  __host__ __device__ int64_t FirstEndingAt(int64_t position) const {
    return position < size ? 0 : Quotient(position - size, stride) + 1;
  }
};

inline Windows FineWindows(const BlockSelectionShape& shape) {
  return {shape.kernel_size, shape.kernel_stride};
}

inline Windows CoarseWindows(const BlockSelectionShape& shape) {
  return {4 * shape.kernel_size, 4 * shape.kernel_stride};
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_SELECTION_KEY_WINDOWS_CUH_
