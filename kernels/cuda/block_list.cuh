// One launch over pieces of very different sizes: a list on the device says at which block of the
// grid, or at which of any other things in a row, each entry begins, and a thread finds its entry
// there.
#ifndef KERNELS_CUDA_BLOCK_LIST_CUH_
#define KERNELS_CUDA_BLOCK_LIST_CUH_

#include <cstdint>

namespace salamander::cuda {

// The last of `count` entries whose `first` is not above `index`. Requires: entries ascend by it,
// from 0.
template <typename Entry>
__device__ const Entry& EntryOf(const Entry* entries, int count, int64_t index,
                                int64_t Entry::*first) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (entries[middle].*first <= index ? low : high) = middle;
  }
  return entries[low];
}

// The entry whose blocks the block is one of.
template <typename Entry>
__device__ const Entry& EntryOfBlock(const Entry* entries, int count, int64_t block) {
  return EntryOf(entries, count, block, &Entry::first_block);
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_BLOCK_LIST_CUH_
