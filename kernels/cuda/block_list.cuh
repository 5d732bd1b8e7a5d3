// One launch over pieces of very different sizes: a list on the device says at which block of the
// grid each entry begins, and a block finds its entry there.
#ifndef KERNELS_CUDA_BLOCK_LIST_CUH_
#define KERNELS_CUDA_BLOCK_LIST_CUH_

#include <cstdint>

namespace salamander::cuda {

// The last of `count` entries with first_block <= block. Requires: entries ascend by first_block,
// from 0, and each has at least one block.
template <typename Entry>
__device__ const Entry& EntryOfBlock(const Entry* entries, int count, int64_t block) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (entries[middle].first_block <= block ? low : high) = middle;
  }
  return entries[low];
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_BLOCK_LIST_CUH_
