// The list of a query's blocks: the forced ones and the best of the others, by radix selection over
// the bits of their scores.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_TOP_K_CUH_
#define KERNELS_CUDA_ATTENTION_BLOCK_TOP_K_CUH_

#include <cstdint>

#include "kernels/cuda/attention/block_scores.cuh"

namespace salamander::cuda {

constexpr int kBins = 256;

// The `places`-th largest of scores [begin, end), by bits, and how many equal to it are among the
// `places` best. Scores are not negative, so their bits order them. By a warp; bins: kBins
// counters.
__device__ inline void FindCut(const float* scores, int64_t begin, int64_t end, int places,
                               int* bins, unsigned& cut, int& ties) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr int kBinsPerLane = kBins / kWarp;
  unsigned prefix = 0, known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = lane; i < kBins; i += kWarp) bins[i] = 0;
    __syncwarp();
    for (int64_t block = begin + lane; block < end; block += kWarp) {
      const unsigned bits = __float_as_uint(scores[block]);
      if ((bits & known) == prefix) atomicAdd(&bins[bits >> shift & (kBins - 1)], 1);
    }
    __syncwarp();
    // Lane l owns the l-th eight bins from above.
    const int top = kBins - 1 - lane * kBinsPerLane;
    int own = 0;
    for (int i = 0; i < kBinsPerLane; ++i) own += bins[top - i];
    int through = own;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(kFullMask, through, offset);
      if (lane >= offset) through += other;
    }
    const int owner = __ffs(static_cast<int>(__ballot_sync(kFullMask, through >= places))) - 1;
    int bin = top, left = places - (through - own);
    if (lane == owner) {
      while (left > bins[bin]) left -= bins[bin--];
    }
    bin = __shfl_sync(kFullMask, bin, owner);
    places = __shfl_sync(kFullMask, left, owner);
    prefix |= static_cast<unsigned>(bin) << shift;
    known |= static_cast<unsigned>(kBins - 1) << shift;
    __syncwarp();
  }
  cut = prefix;
  ties = places;
}

// Writes the list of the query at `position`, by a warp.
__device__ inline void ListBlocks(const SelectArgs& args, int64_t position, const float* scores,
                                  int* bins, int32_t* list) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t current = position / args.block_size;
  const int64_t begin = args.CandidatesBegin(position), end = args.CandidatesEnd(position);
  const int local = static_cast<int>(current + 1 - end);
  const int places = args.selected_blocks - static_cast<int>(begin) - local;
  for (int64_t block = lane; block < begin; block += kWarp) {
    list[block] = static_cast<int32_t>(block);
  }
  int64_t written = begin;
  if (end - begin <= places) {
    for (int64_t block = begin + lane; block < end; block += kWarp) {
      list[block] = static_cast<int32_t>(block);
    }
    written = end;
  } else if (places > 0) {
    unsigned cut;
    int ties;
    FindCut(scores, begin, end, places, bins, cut, ties);
    const unsigned lower = (1U << lane) - 1;
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t block = first + lane;
      const bool is_block = block < end;
      const unsigned bits = is_block ? __float_as_uint(scores[block]) : 0;
      const unsigned tied = __ballot_sync(kFullMask, is_block && bits == cut);
      const bool is_taken =
          is_block && (bits > cut || (bits == cut && __popc(tied & lower) < ties));
      const unsigned taken = __ballot_sync(kFullMask, is_taken);
      if (is_taken) list[written + __popc(taken & lower)] = static_cast<int32_t>(block);
      ties -= min(ties, __popc(tied));
      written += __popc(taken);
    }
  }
  for (int i = lane; i < local; i += kWarp) list[written + i] = static_cast<int32_t>(end) + i;
  written += local;
  for (int64_t i = written + lane; i < args.selected_blocks; i += kWarp) list[i] = -1;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_TOP_K_CUH_
