// Where the runs of Lightning's sweep on Hopper (lightning_sweep_hopper.cu) start from, and what
// they leave behind. A state comes from the caller, from the scratch, or is the sum of the pieces
// before the run, which the sweep itself has worked on.
#ifndef KERNELS_CUDA_LIGHTNING_LIGHTNING_ENDS_HOPPER_CUH_
#define KERNELS_CUDA_LIGHTNING_LIGHTNING_ENDS_HOPPER_CUH_

#include <cstdint>

#include "kernels/cuda/lightning/lightning_walks_hopper.cuh"

namespace salamander::cuda {

__device__ inline int64_t StateOffset(const LightningSweepArgs& args, const Walk& walk,
                                      int32_t row) {
  return (int64_t{row} * args.shape.heads + walk.head.index) * kDim * kDim;
}

// Tells the runs that wait for a piece that this warpgroup's part is in place.
__device__ inline void AnnouncePiece(int32_t* written) {
  SyncGroup();
  if (threadIdx.x % kWarpgroup == 0) {
    __threadfence();
    atomicAdd(written, 1);
  }
}

__device__ inline void WaitForPiece(const int32_t* written) {
  int32_t parts;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(parts) : "l"(written) : "memory");
  } while (parts < kStateGroups);
}

// The sum of the pieces before this run that its head remembers.
__device__ inline void SumPieces(const LightningSweepArgs& args, const Walk& walk, int group,
                                 WarpgroupState& state) {
  const LightningProduct& product = *walk.product;
  const int32_t chunks = args.states.chunks_of_piece;
  const int32_t count = min(walk.run.pieces_before, (walk.head.memory_chunks - 1) / chunks + 1);
  const int64_t heads = args.shape.heads;
  const int64_t first = (walk.run.start_scratch - count + 1) * heads + walk.head.index;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  if (thread < count) WaitForPiece(product.written + first + thread * heads);
  __syncwarp();
  SyncGroup();
#pragma unroll 1
  for (int32_t i = 0; i < count; ++i) {
    const float* const piece = product.scratch + (first + i * heads) * kDim * kDim;
    if (product.transposed) {
      AddTransposedPiece(piece, group, walk.head.piece_decay, state);
    } else {
      AddPiece(piece, group, walk.head.piece_decay, state);
    }
  }
}

// Where this run starts from: pieces, a state of the scratch or of the caller, or zero.
__device__ inline void StartState(const LightningSweepArgs& args, const Walk& walk, int group,
                                  WarpgroupState& state) {
  ClearState(state);
  const LightningProduct& product = *walk.product;
  if (walk.run.start_scratch >= 0 && product.written != nullptr) {
    SumPieces(args, walk, group, state);
    return;
  }
  const float* stored = nullptr;
  if (walk.run.start_scratch >= 0) {
    stored = product.scratch + StateOffset(args, walk, walk.run.start_scratch);
  } else if (walk.run.start_slot >= 0) {
    stored = product.start_states + StateOffset(args, walk, walk.run.start_slot);
  }
  if (stored == nullptr) return;
  if (product.transposed) {
    ReadState<true>(stored, group, state);
  } else {
    ReadState<false>(stored, group, state);
  }
}

__device__ inline void KeepEndState(const LightningSweepArgs& args, int32_t index, int group,
                                    const WarpgroupState& state) {
  const Walk walk = WalkAt(args, index);  // again: registers are scarce in between
  const LightningProduct& product = *walk.product;
  float* const end = product.end_states + StateOffset(args, walk, walk.run.end_slot);
  if (product.transposed) {
    WriteState<true>(state, group, end);
  } else {
    WriteState<false>(state, group, end);
  }
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_ENDS_HOPPER_CUH_
