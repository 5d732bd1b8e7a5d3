// A listing warp of block selection by warpgroups: see the head of block_selection_hopper.cu.
#ifndef KERNELS_CUDA_SELECTION_WARPGROUP_LISTER_CUH_
#define KERNELS_CUDA_SELECTION_WARPGROUP_LISTER_CUH_

#include <cstdint>

#include "kernels/cuda/selection/warpgroup_selection.cuh"

namespace salamander::cuda::warpgroup_selection {

// Reads scores [begin, end) once: which blocks are above the range, a bit each, and which are in
// it.
__device__ inline void SortIntoBits(const float* scores, int begin, int end, const CutRange& range,
                                    ListerScratch& scratch) {
  const unsigned lower = (1U << threadIdx.x % kWarp) - 1;
  int step = 0, count = 0;
  VisitScores(scores, begin, end, [&](int block, unsigned bits, bool is_block) {
    const unsigned above = __ballot_sync(kFullMask, is_block && bits > range.high);
    const bool is_kept = is_block && bits >= range.low && bits <= range.high;
    const unsigned kept = __ballot_sync(kFullMask, is_kept);
    if (IsFirstLane()) scratch.taken[step] = above;
    ++step;
    if (kept == 0) return;
    if (is_kept) {
      const int place = count + __popc(kept & lower);
      scratch.kept[place] = bits;
      scratch.kept_blocks[place] = block - begin;
    }
    count += __popc(kept);
  });
  __syncwarp();
}

// Sets the bits of those of the few blocks that the cut takes.
__device__ inline void TakeFew(const FewScores& few, ScoreCut cut, ListerScratch& scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const unsigned lower = (1U << lane) - 1;
#pragma unroll
  for (int i = 0; i < FewScores::kOwn; ++i) {
    if (i * kWarp >= few.count) break;
    const bool is_tied = few.Holds(i) && few.own[i] == cut.bits;
    const unsigned tied = __ballot_sync(kFullMask, is_tied);
    if (few.own[i] > cut.bits || (is_tied && __popc(tied & lower) < cut.ties)) {
      const int block = scratch.kept_blocks[i * kWarp + lane];
      atomicOr(&scratch.taken[block / kWarp], 1U << block % kWarp);
    }
    cut.ties -= min(cut.ties, __popc(tied));
  }
  __syncwarp();
}

// Writes the best of blocks [begin, end) in order; `counts` says how many scores are in each bin.
__device__ inline void ListBest(const float* scores, const int* counts, int begin, int end,
                                int places, ListerScratch& scratch, int32_t* list) {
  const CutBin cut(counts, places);
  const CutRange range = Narrow(
      scores, begin, end, {ScoreBin::Low(cut.bin), ScoreBin::High(cut.bin), cut.places, cut.count},
      scratch.bins());
  if (!range.IsUndecided()) {
    ListAboveCut(scores, begin, end, {range.low, range.places}, list);
    return;
  }
  SortIntoBits(scores, begin, end, range, scratch);
  const FewScores few(scratch.kept, range.count);
  TakeFew(few, few.Cut(range), scratch);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const unsigned lower = (1U << lane) - 1;
  for (int first = begin, step = 0; first < end; first += kWarp, ++step) {
    const unsigned taken = scratch.taken[step];
    if ((taken >> lane & 1) != 0) list[__popc(taken & lower)] = first + lane;
    list += __popc(taken);
  }
  __syncwarp();
}

// A listing warp takes every third query.
template <int kD>
__device__ void ListTiles(const SelectArgs& args, const SharedMemory<kD>& memory, int lister) {
  Barriers& barriers = memory.barriers();
  RingPlace<kScoreBuffers> place;
  VisitTiles(args, [&](const SelectionTile& tile) {
    const bool is_scored = tile.IsScored(args);
    const int buffer = place.Slot();
    if (is_scored) SharedBarrier(&barriers.scores_full[buffer]).Wait(place.FullParity());
    for (int query = lister; query < tile.queries; query += kListers) {
      int* const counts = memory.Counts(buffer, query);
      const auto list_best = [&](int begin, int end, int places, int32_t* list) {
        ListBest(ScoresOf(args, buffer, query), counts, begin, end, places, memory.Scratch(lister),
                 list);
      };
      ListBlocks(args, tile.position + query, list_best,
                 args.List(tile.query_row + query, tile.key_head));
      __syncwarp();
      if (is_scored) ZeroCounts<kWarp>(counts, kBins, static_cast<int>(threadIdx.x) % kWarp);
    }
    if (!is_scored) return;
    __syncwarp();
    if (IsFirstLane()) SharedBarrier(&barriers.scores_empty[buffer]).Arrive();
    place.Advance();
  });
}

}  // namespace salamander::cuda::warpgroup_selection

#endif  // KERNELS_CUDA_SELECTION_WARPGROUP_LISTER_CUH_
