// The list of a query's blocks: the forced ones and the best of the others, by radix selection over
// the bits of their scores.
#ifndef KERNELS_CUDA_SELECTION_BLOCK_TOP_K_CUH_
#define KERNELS_CUDA_SELECTION_BLOCK_TOP_K_CUH_

#include <cstdint>

#include "kernels/cuda/selection/selection_tiles.cuh"

namespace salamander::cuda {

constexpr int kBins = 256;

// Scores are ordered by their bits, as they are not negative. None is above infinity, NaN included.
constexpr unsigned kHighestScore = 0x7F800000U;

// Calls visit(block, bits of its score, block < end) for blocks [begin, end) in order, a warp's
// width at a time, by all lanes together.
template <typename Visit>
__device__ void VisitScores(const float* scores, int begin, int end, const Visit& visit) {
  constexpr int kAtOnce = 8;  // loads under way
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

// Scores above `bits` are taken, and so many of those that equal it.
struct ScoreCut {
  unsigned bits;
  int ties;
};

// Bits among which the cut lies: of the `count` scores there, the `places` best are taken.
struct CutRange {
  unsigned low, high;
  int places, count;
};

// The bin of a histogram that the `places`-th best of all is in, how many of the bin are among the
// `places` best, and how many there are. By a warp; bins: 16-byte aligned.
struct CutBin {
  int bin, places, count;

  __device__ CutBin(const int* bins, int wanted) {
    constexpr int kOwn = kBins / kWarp;
    static_assert(kOwn == 8);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int top = kBins - 1 - lane * kOwn;  // lane l owns the l-th eight bins from above
    const int4 high = *reinterpret_cast<const int4*>(bins + top - 3);
    const int4 low = *reinterpret_cast<const int4*>(bins + top - 7);
    const int own[] = {high.w, high.z, high.y, high.x, low.w, low.z, low.y, low.x};
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) sum += own[i];
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

// The cut where no more than kBins scores [begin, end) lie in the range: they are gathered in
// `kept`, and the range is halved. By a warp.
__device__ inline ScoreCut CutAmongFew(const float* scores, int begin, int end,
                                       const CutRange& range, unsigned* kept) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int count = 0;
  VisitScores(scores, begin, end, [&](int, unsigned bits, bool is_block) {
    const bool is_kept = is_block && bits >= range.low && bits <= range.high;
    const unsigned all = __ballot_sync(kFullMask, is_kept);
    if (is_kept) kept[count + __popc(all & ((1U << lane) - 1))] = bits;
    count += __popc(all);
  });
  __syncwarp();
  unsigned own[kBins / kWarp];
#pragma unroll
  for (int i = 0; i < kBins / kWarp; ++i) {
    own[i] = i * kWarp + lane < count ? kept[i * kWarp + lane] : 0;
  }
  __syncwarp();
  const auto count_from = [&](unsigned bits) {  // bits > 0
    unsigned mine = 0;
#pragma unroll
    for (int i = 0; i < kBins / kWarp; ++i) mine += own[i] >= bits ? 1 : 0;
    return static_cast<int>(__reduce_add_sync(kFullMask, mine));
  };
  unsigned low = range.low, high = range.high;
  while (low < high) {
    const unsigned middle = high - (high - low) / 2;
    const int from = count_from(middle);
    if (from == range.places) return {middle, range.places};
    if (from > range.places) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {low, range.places - count_from(low + 1)};
}

// The cut of scores [begin, end). Narrows the range to one of 256 parts at a time, until all of it
// is taken, few scores are left or it is one value. By a warp; bins: kBins counters.
__device__ inline ScoreCut FindCut(const float* scores, int begin, int end, CutRange range,
                                   int* bins) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  while (range.count > range.places && range.low < range.high) {
    if (range.count <= kBins) {
      return CutAmongFew(scores, begin, end, range, reinterpret_cast<unsigned*>(bins));
    }
    for (int i = lane; i < kBins; i += kWarp) bins[i] = 0;
    __syncwarp();
    const int shift = max(24 - __clz(static_cast<int>(range.high - range.low)), 0);
    VisitScores(scores, begin, end, [&](int, unsigned bits, bool is_block) {
      if (is_block && bits >= range.low && bits <= range.high) {
        atomicAdd(&bins[(bits - range.low) >> shift], 1);
      }
    });
    __syncwarp();
    const CutBin cut(bins, range.places);
    __syncwarp();
    range.low += static_cast<unsigned>(cut.bin) << shift;
    range.high = min(range.high, range.low + (1U << shift) - 1);
    range.places = cut.places;
    range.count = cut.count;
  }
  return {range.low, range.places};
}

// Writes the list of the query at `position`, by a warp. find_cut(begin, end, places) says where to
// cut scores [begin, end) so that `places` are taken, 0 < places < end - begin.
template <typename FindCut>
__device__ void ListBlocks(const SelectArgs& args, int64_t position, const float* scores,
                           const FindCut& find_cut, int32_t* list) {
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
    ScoreCut cut = find_cut(begin, end, places);
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

#endif  // KERNELS_CUDA_SELECTION_BLOCK_TOP_K_CUH_
