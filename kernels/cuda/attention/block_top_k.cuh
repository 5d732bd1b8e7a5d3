// The list of a query's blocks: the forced ones and the best of the others, by radix selection over
// the bits of their scores.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_TOP_K_CUH_
#define KERNELS_CUDA_ATTENTION_BLOCK_TOP_K_CUH_

#include <cstdint>

#include "kernels/cuda/attention/selection_tiles.cuh"

namespace salamander::cuda {

constexpr int kBins = 256;

// Calls visit(block, bits of its score, block < end) for blocks [begin, end) in order, a warp's
// width at a time, by all lanes together.
template <typename Visit>
__device__ void VisitScores(const float* scores, int begin, int end, const Visit& visit) {
  constexpr int kAtOnce = 4;  // loads under way
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int first = begin; first < end; first += kAtOnce * kWarp) {
    unsigned bits[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int block = first + i * kWarp + lane;
      bits[i] = block < end ? __float_as_uint(scores[block]) : 0;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * kWarp >= end) break;
      const int block = first + i * kWarp + lane;
      visit(block, bits[i], block < end);
    }
  }
}

// Scores by their bits, which order them as they are not negative.
struct ScoreCut {
  unsigned bits;  // what is above is taken
  int ties;       // and so many of those that equal it
};

// The bin of the `places`-th best in a histogram, how many of the bin are among the `places` best,
// and how many there are. By a warp.
struct CutBin {
  int bin, places, count;

  __device__ CutBin(const int* bins, int wanted) {
    constexpr int kOwn = kBins / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int top = kBins - 1 - lane * kOwn;  // lane l owns the l-th eight bins from above
    int own[kOwn], sum = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) sum += own[i] = bins[top - i];
    int through = sum;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(kFullMask, through, offset);
      if (lane >= offset) through += other;
    }
    const int owner = __ffs(static_cast<int>(__ballot_sync(kFullMask, through >= wanted))) - 1;
    bin = top;
    places = wanted - (through - sum);
    count = own[0];
#pragma unroll
    for (int i = 1; i < kOwn; ++i) {
      if (bin != top - i + 1 || places <= count) continue;
      places -= count;
      count = own[i];
      --bin;
    }
    bin = __shfl_sync(kFullMask, bin, owner);
    places = __shfl_sync(kFullMask, places, owner);
    count = __shfl_sync(kFullMask, count, owner);
  }
};

// Where to cut scores [begin, end) so that `places` are taken, 0 < places < end - begin. Narrows
// the range that holds the cut to one of 256 parts at a time, until all or nothing of it is taken
// or it is one value. By a warp; bins: kBins counters.
__device__ inline ScoreCut FindCut(const float* scores, int begin, int end, int places, int* bins) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  unsigned low = ~0U, high = 0;
  VisitScores(scores, begin, end, [&](int, unsigned bits, bool is_block) {
    if (!is_block) return;
    low = min(low, bits);
    high = max(high, bits);
  });
  low = __reduce_min_sync(kFullMask, low);
  high = __reduce_max_sync(kFullMask, high);
  while (true) {
    for (int i = lane; i < kBins; i += kWarp) bins[i] = 0;
    __syncwarp();
    const int shift = max(24 - __clz(static_cast<int>(high - low)), 0);
    VisitScores(scores, begin, end, [&](int, unsigned bits, bool is_block) {
      if (is_block && bits >= low && bits <= high) atomicAdd(&bins[(bits - low) >> shift], 1);
    });
    __syncwarp();
    const CutBin cut(bins, places);
    __syncwarp();
    places = cut.places;
    low += static_cast<unsigned>(cut.bin) << shift;
    if (shift == 0 || cut.count == places) return {low, places};
    high = min(high, low + (1U << shift) - 1);
  }
}

// Writes the list of the query at `position`, by a warp.
__device__ inline void ListBlocks(const SelectArgs& args, int64_t position, const float* scores,
                                  int* bins, int32_t* list) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int current = Quotient(position, args.block_size);
  const int begin = static_cast<int>(args.CandidatesBegin(position));
  const int end = static_cast<int>(args.CandidatesEnd(position));
  const int local = current + 1 - end;
  const int places = args.selected_blocks - begin - local;
  for (int block = lane; block < begin; block += kWarp) list[block] = block;
  int written = begin;
  if (end - begin <= places) {
    for (int block = begin + lane; block < end; block += kWarp) list[block] = block;
    written = end;
  } else if (places > 0) {
    ScoreCut cut = FindCut(scores, begin, end, places, bins);
    const unsigned lower = (1U << lane) - 1;
    VisitScores(scores, begin, end, [&](int block, unsigned bits, bool is_block) {
      const unsigned tied = __ballot_sync(kFullMask, is_block && bits == cut.bits);
      const bool is_taken =
          is_block && (bits > cut.bits || (bits == cut.bits && __popc(tied & lower) < cut.ties));
      const unsigned taken = __ballot_sync(kFullMask, is_taken);
      if (is_taken) list[written + __popc(taken & lower)] = block;
      cut.ties -= min(cut.ties, __popc(tied));
      written += __popc(taken);
    });
  }
  for (int i = lane; i < local; i += kWarp) list[written + i] = end + i;
  written += local;
  for (int i = written + lane; i < args.selected_blocks; i += kWarp) list[i] = -1;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_TOP_K_CUH_
