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

  // Whether it depends on the scores which of them are taken.
  __device__ bool IsUndecided() const { return count > places && low < high; }
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
    int below = 0;  // the top bin that the lane owns
    places = wanted - (through - sum);
    count = own[0];
#pragma unroll
    for (int i = 1; i < kOwn; ++i) {
      if (below != i - 1 || places <= count) continue;
      places -= count;
      count = own[i];
      below = i;
    }
    bin = top - below;
    bin = __shfl_sync(kFullMask, bin, owner);
    places = __shfl_sync(kFullMask, places, owner);
    count = __shfl_sync(kFullMask, count, owner);
  }
};

// Few scores that a warp has gathered, in order: lane l has those at l, l + 32 and so on, and zeros
// behind the last.
struct FewScores {
  static constexpr int kOwn = kBins / kWarp;
  unsigned own[kOwn];
  int count;

  // By a warp, which may change `kept` as soon as this returns.
  __device__ FewScores(const unsigned* kept, int kept_count) : count(kept_count) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own[i] = Holds(i) ? kept[i * kWarp + threadIdx.x % kWarp] : 0;
    __syncwarp();
  }

  __device__ static int Place(int i) {
    return i * kWarp + static_cast<int>(threadIdx.x) % kWarp;
  }
  __device__ bool Holds(int i) const {
    return Place(i) < count;
  }

  // bits > 0
  __device__ int CountFrom(unsigned bits) const {
    unsigned mine = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) mine += own[i] >= bits ? 1 : 0;
    return static_cast<int>(__reduce_add_sync(kFullMask, mine));
  }

  // The cut where these are the scores in the range, which is halved.
  __device__ ScoreCut Cut(const CutRange& range) const {
    unsigned low = range.low, high = range.high;
    while (low < high) {
      const unsigned middle = high - (high - low) / 2;
      const int from = CountFrom(middle);
      if (from == range.places) return {middle, range.places};
      if (from > range.places) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return {low, range.places - CountFrom(low + 1)};
  }
};

// The cut where no more than kBins scores [begin, end) lie in the range: they are gathered in
// `kept`. By a warp.
__device__ inline ScoreCut CutAmongFew(const float* scores, int begin, int end,
                                       const CutRange& range, unsigned* kept) {
  const unsigned lower = (1U << threadIdx.x % kWarp) - 1;
  int count = 0;
  VisitScores(scores, begin, end, [&](int, unsigned bits, bool is_block) {
    const bool is_kept = is_block && bits >= range.low && bits <= range.high;
    const unsigned all = __ballot_sync(kFullMask, is_kept);
    if (is_kept) kept[count + __popc(all & lower)] = bits;
    count += __popc(all);
  });
  return FewScores(kept, count).Cut(range);
}

// Narrows the range that the cut of scores [begin, end) lies in to one of 256 parts at a time,
// until all of it is taken, few scores are left or it is one value. By a warp; bins: kBins
// counters.
__device__ inline CutRange Narrow(const float* scores, int begin, int end, CutRange range,
                                  int* bins) {
  while (range.count > max(range.places, kBins) && range.low < range.high) {
#pragma unroll 1  // the listers of Hopper's kernel have few registers
    for (int i = static_cast<int>(threadIdx.x) % kWarp; i < kBins; i += kWarp) bins[i] = 0;
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
  return range;
}

// The cut of scores [begin, end), which lies in the range. By a warp; bins: kBins counters.
__device__ inline ScoreCut FindCut(const float* scores, int begin, int end, CutRange range,
                                   int* bins) {
  range = Narrow(scores, begin, end, range, bins);
  if (!range.IsUndecided()) return {range.low, range.places};
  return CutAmongFew(scores, begin, end, range, reinterpret_cast<unsigned*>(bins));
}

// Writes the blocks [begin, end) whose scores the cut takes, in order. By a warp.
__device__ inline void ListAboveCut(const float* scores, int begin, int end, ScoreCut cut,
                                    int32_t* list) {
  const unsigned lower = (1U << threadIdx.x % kWarp) - 1;
  int written = 0;
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

// Writes the list of the query at `position`, by a warp. list_best(begin, end, places, list) writes
// the `places` best of blocks [begin, end) in order, 0 < places < end - begin.
template <typename ListBest>
__device__ void ListBlocks(const SelectArgs& args, int64_t position, const ListBest& list_best,
                           int32_t* list) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int current = Quotient(position, args.block_size);
  const int begin = static_cast<int>(args.CandidatesBegin(position));
  const int end = static_cast<int>(args.CandidatesEnd(position));
  const int local = current + 1 - end;
  const int places = args.selected_blocks - begin - local;
  const int before_local = begin + max(min(end - begin, places), 0);
  for (int block = lane; block < begin; block += kWarp) list[block] = block;
  for (int i = lane; i < local; i += kWarp) list[before_local + i] = end + i;
  for (int i = before_local + local + lane; i < args.selected_blocks; i += kWarp) list[i] = -1;
  if (end - begin <= places) {
    for (int block = begin + lane; block < end; block += kWarp) list[block] = block;
  } else if (places > 0) {
    list_best(begin, end, places, list + begin);
  }
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_SELECTION_BLOCK_TOP_K_CUH_
