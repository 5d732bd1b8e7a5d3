// Bulk copies of Hopper (TMA): one thread has a box of a tensor copied to panels in shared memory,
// and a SharedBarrier counts the bytes that land.
#ifndef KERNELS_CUDA_BULK_COPY_CUH_
#define KERNELS_CUDA_BULK_COPY_CUH_

#include <cstdint>

#include <cuda.h>

#include "kernels/cuda/tensor_core.cuh"

namespace salamander::cuda {

// Makes initialised barriers known to bulk copies; by the thread that did it.
__device__ inline void FenceBarriersForCopies() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// The thread's arrival; the barrier's phase ends after `bytes` have landed too.
__device__ inline void ArriveExpecting(uint64_t* barrier, int bytes) {
  asm volatile(
      "{\n.reg .b64 state;\n"
      "mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}\n" ::"r"(
          SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

// The box of `map` (MakePanelMap) from row `row` of head `head`, to panels at `destination`.
__device__ inline void CopyPanels(const CUtensorMap& map, int row, int head, uint32_t destination,
                                  uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %2, %4}], [%5];" ::"r"(destination),
      "l"(&map), "r"(0), "r"(row), "r"(head), "r"(SharedAddress(barrier))
      : "memory");
}

// The box of `map` (MakeRowMap) from column `column`, a multiple of 64, of row `row`, to rows of a
// panel.
__device__ inline void CopyPanelRows(const CUtensorMap& map, int column, int row,
                                     uint32_t destination, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
      "l"(&map), "r"(column), "r"(row), "r"(SharedAddress(barrier))
      : "memory");
}

// Whole vectors of 16 bytes, aligned on either side.
__device__ inline void CopyBytes(const void* source, int bytes, uint32_t destination,
                                 uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(destination),
      "l"(source), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_BULK_COPY_CUH_
