// What the parts of block selection by warpgroup products share (block_selection_hopper.cu):
// the memory of a thread block, its barriers and rings, the order of tiles; and the loading warp.
#ifndef KERNELS_CUDA_SELECTION_WARPGROUP_SELECTION_CUH_
#define KERNELS_CUDA_SELECTION_WARPGROUP_SELECTION_CUH_

#include <cstdint>

#include "kernels/cuda/selection/block_selection_hopper.h"
#include "kernels/cuda/selection/block_top_k.cuh"
#include "kernels/cuda/selection/selection_tiles.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda::warpgroup_selection {

constexpr int kGroup = 16;         // query heads of a KV head
constexpr int kScorers = 3;        // warpgroups
constexpr int kScorerQueries = 8;  // of a tile
constexpr int kScorerWarps = kScorers * 4;
constexpr int kListers = 3;  // warps
constexpr int kThreads = (1 + kScorers) * kWarpgroup;
constexpr int kWindows = 64;  // in a tile of keys
constexpr int kWindowsPerBlock = 4;
constexpr int kBlocks = kWindows / kWindowsPerBlock;
constexpr int kStages = 4;
constexpr int kTileQueries = kWarpgroupTileQueries;
constexpr int kScoreBuffers = kWarpgroupTilesAtOnce;
static_assert(kTileQueries == kScorers * kScorerQueries && kBlocks == kWarpgroupScoreMultiple);

// Together no more than the threads are launched with: 128 each.
constexpr int kScorerRegisters = 144, kOtherRegisters = 80;

// Barriers in shared memory, each pair for what one part fills and another empties.
struct Barriers {
  uint64_t keys_full[kStages], keys_empty[kStages];
  uint64_t queries_full, queries_empty;
  uint64_t scores_full[kScoreBuffers], scores_empty[kScoreBuffers];
  uint64_t nothing;  // what the loader tells of before it has filled anything
};

// A listing warp's.
struct ListerScratch {
  unsigned kept[kBins];  // scores; 16-byte aligned
  int kept_blocks[kBins];
  unsigned taken[kWarpgroupMostBlocks / kWarp];  // a bit for each block

  __device__ int* bins() { return reinterpret_cast<int*>(kept); }
};

// Memory of a thread block.
template <int kD>
struct SharedMemory {
  static constexpr int kPanelBytes = kWindows * kPanelRowBytes;
  static constexpr int kKeyBytes = kWindows * kD * 2;
  static constexpr int kQueries = kStages * kKeyBytes;
  static constexpr int kCounts = kQueries + kTileQueries * kGroup * kD * 2;
  static constexpr int kScratch = kCounts + kScoreBuffers * kTileQueries * kBins * 4;
  static constexpr int kBarriers = kScratch + kListers * static_cast<int>(sizeof(ListerScratch));
  static constexpr int kBytes = kBarriers + static_cast<int>(sizeof(Barriers));

  char* memory;

  __device__ uint32_t Keys(int stage) const { return SharedAddress(memory) + stage * kKeyBytes; }
  __device__ SharedTile<kD> Queries() const { return SharedTile<kD>(memory + kQueries); }
  // By bin, of a query's scores in a buffer.
  __device__ int* Counts(int buffer, int query) const {
    return reinterpret_cast<int*>(memory + kCounts) + (buffer * kTileQueries + query) * kBins;
  }
  __device__ ListerScratch& Scratch(int lister) const {
    return reinterpret_cast<ListerScratch*>(memory + kScratch)[lister];
  }
  __device__ Barriers& barriers() const { return *reinterpret_cast<Barriers*>(memory + kBarriers); }

  __device__ void InitBarriers() const {
    Barriers& all = barriers();
    for (int i = 0; i < kStages; ++i) {
      SharedBarrier(&all.keys_full[i]).Init(kWarp);
      SharedBarrier(&all.keys_empty[i]).Init(kScorerWarps);
    }
    SharedBarrier(&all.queries_full).Init(kWarp);
    SharedBarrier(&all.queries_empty).Init(kScorerWarps);
    for (int i = 0; i < kScoreBuffers; ++i) {
      SharedBarrier(&all.scores_full[i]).Init(kScorerWarps);
      SharedBarrier(&all.scores_empty[i]).Init(kListers);
    }
    SharedBarrier(&all.nothing).Init(kWarp);
  }
};

// The next of `kSlots` slots of a ring, a power of two, and the parities that its barriers have
// before it is filled and once it is.
template <unsigned kSlots>
struct RingPlace {
  unsigned uses = 0;

  __device__ int Slot() const { return static_cast<int>(uses % kSlots); }
  __device__ int FullParity() const { return static_cast<int>(uses / kSlots % 2); }
  __device__ int EmptyParity() const { return FullParity() ^ 1; }
  __device__ void Advance() { ++uses; }
};

// Scores of a query's blocks in one of the thread block's buffers.
__device__ inline float* ScoresOf(const SelectArgs& args, int buffer, int query) {
  const int64_t row =
      (static_cast<int64_t>(blockIdx.x) * kScoreBuffers + buffer) * kTileQueries + query;
  return args.scores + row * args.score_pitch;
}

// The scorers count scores in bins, eight to a power of two from 2^-24 to 2^8 and the outermost
// open: few scores are left to look at in the bin of the cut.
struct ScoreBin {
  static constexpr int kShift = 20;
  static constexpr int kFirst = (127 - 24) << 3;

  __device__ static int Of(unsigned bits) {
    return min(max(static_cast<int>(bits >> kShift) - kFirst, 0), kBins - 1);
  }
  __device__ static unsigned Low(int bin) {
    return bin == 0 ? 0 : static_cast<unsigned>(kFirst + bin) << kShift;
  }
  __device__ static unsigned High(int bin) {
    return bin == kBins - 1 ? kHighestScore : Low(bin + 1) - 1;
  }
};

// By kCount threads. counts: 16-byte aligned; size: a multiple of 4.
template <int kCount>
__device__ void ZeroCounts(int* counts, int size, int thread) {
  for (int i = thread * 4; i < size; i += kCount * 4) *reinterpret_cast<int4*>(counts + i) = {};
}

// Calls visit(tile) for the thread block's tiles. The thread blocks take turns in alternating
// order, since the first tile of a turn is the longest.
template <typename Visit>
__device__ void VisitTiles(const SelectArgs& args, const Visit& visit) {
  const int items = static_cast<int>(args.items), grid = static_cast<int>(gridDim.x);
  int place = static_cast<int>(blockIdx.x);
  for (int first = 0; first < items; first += grid) {
    if (first + place < items) visit(SelectionTile(args, first + place));
    place = grid - 1 - place;
  }
}

// Tiles of keys that a tile of queries meets.
struct KeyTiles {
  int coarse, fine;

  __device__ KeyTiles(const SelectArgs& args, int64_t last_position) {
    const int64_t windows = args.coarse.Count(last_position + 1);
    coarse = static_cast<int>(max(CeilDivide(windows, kWindows), int64_t{1}));
    fine =
        static_cast<int>(max(CeilDivide(args.CandidatesEnd(last_position), kBlocks), int64_t{1}));
  }
  __device__ int count() const { return coarse + fine; }
};

__device__ inline bool IsFirstLane() {
  return threadIdx.x % kWarp == 0;
}

// Row of shared memory that window `window` of a tile lies in, see the head of
// block_selection_hopper.cu.
constexpr int RowOfWindow(int window) {
  return window & ~15 | (window & 2) << 2 | (window >> 1 & 6) | (window & 1);
}
// The counterpart.
constexpr int WindowOfRow(int row) {
  return row & ~15 | (row & 6) << 1 | (row >> 2 & 2) | (row & 1);
}
static_assert(WindowOfRow(RowOfWindow(0b0010)) == 0b0010 && RowOfWindow(0b0010) == 0b1000 &&
              WindowOfRow(RowOfWindow(0b1101)) == 0b1101 && RowOfWindow(0b1101) == 0b0111);

// The loading warp.
template <int kD>
class Loader {
 public:
  __device__ Loader(const SelectArgs& args, const SharedMemory<kD>& memory)
      : args_(args),
        memory_(memory),
        pending_{SharedBarrier(&memory.barriers().nothing),
                 SharedBarrier(&memory.barriers().nothing)} {}

  __device__ void Run() {
    Barriers& barriers = memory_.barriers();
    VisitTiles(args_, [&](const SelectionTile& tile) {
      if (!tile.IsScored(args_)) return;
      SharedBarrier(&barriers.queries_empty).Wait(queries_.EmptyParity());
      LoadQueries(tile);
      Commit(&barriers.queries_full);
      queries_.Advance();
      const int64_t keys = tile.LastPosition() + 1;
      const KeyTiles tiles(args_, tile.LastPosition());
      for (int i = 0; i < tiles.count(); ++i) {
        SharedBarrier(&barriers.keys_empty[keys_.Slot()]).Wait(keys_.EmptyParity());
        const bool is_coarse = i < tiles.coarse;
        const Windows& windows = is_coarse ? args_.coarse : args_.fine;
        LoadKeys(tile, is_coarse ? args_.coarse_keys : args_.fine_keys, windows,
                 (is_coarse ? i : i - tiles.coarse) * kWindows, windows.Count(keys));
        Commit(&barriers.keys_full[keys_.Slot()]);
        keys_.Advance();
      }
    });
    WaitForCopies<0>();
    Announce(pending_[0]);
    Announce(pending_[1]);
  }

 private:
  static constexpr int kChunks = kD / kLanes;       // of 16 bytes, in a row
  static constexpr int kRowStep = kWarp / kChunks;  // rows that the warp loads at once

  // Of the lane.
  __device__ static int Chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  __device__ static int FirstRow() { return static_cast<int>(threadIdx.x) % kWarp / kChunks; }

  __device__ void LoadQueries(const SelectionTile& tile) const {
    const SharedTile<kD> rows = memory_.Queries();
    const int64_t first =
        (tile.query_row * args_.rows.heads + static_cast<int64_t>(tile.key_head) * kGroup) * kD;
    const int64_t query_stride = static_cast<int64_t>(args_.rows.heads) * kD;
    const BFloat16* const source = args_.rows.q + first + Chunk() * kLanes;
    for (int query = 0; query < kTileQueries; ++query) {
      const bool is_read = query < tile.queries;
      const BFloat16* const head = source + (is_read ? query * query_stride : 0);
#pragma unroll
      for (int row = 0; row < kGroup; row += kRowStep) {
        CopyAsync(rows.Address(query * kGroup + row + FirstRow(), Chunk()),
                  head + (row + FirstRow()) * kD, is_read);
      }
    }
  }

  // Windows [first, first + 64) of the tile's KV head, zeros from window `end` on.
  __device__ void LoadKeys(const SelectionTile& tile, const BFloat16* pooled,
                           const Windows& windows, int64_t first, int64_t end) const {
    const int64_t stride = static_cast<int64_t>(args_.rows.key_heads) * kD;
    const int64_t row = Quotient(tile.key_row, windows.stride) + first + FirstRow();
    const BFloat16* const source = pooled + row * stride + tile.key_head * kD + Chunk() * kLanes;
    if (end - first >= kWindows) {
      CopyKeys(source, stride, [](int) { return true; });
    } else {
      CopyKeys(source, stride, [&](int window) { return first + window + FirstRow() < end; });
    }
  }

  // Windows are copied in order, so that addresses are a step apart; `source` is the lane's first.
  template <typename IsRead>
  __device__ void CopyKeys(const BFloat16* source, int64_t stride, const IsRead& is_read) const {
    const uint32_t panel = memory_.Keys(keys_.Slot()) + Chunk() / 8 * SharedMemory<kD>::kPanelBytes;
    const int first_row = RowOfWindow(FirstRow());
#pragma unroll
    for (int window = 0; window < kWindows; window += kRowStep, source += kRowStep * stride) {
      const int row = RowOfWindow(window);
      // As rows of `row` and `first_row` have no bit in common.
      const int offset = ChunkOffset<kPanelColumns>(first_row, Chunk() % 8 ^ row % 8);
      CopyAsync(panel + row * kPanelRowBytes + offset, is_read(window) ? source : args_.fine_keys,
                is_read(window));
    }
  }

  // Ends what `barrier` tells of. Copies are told of once they have landed and been made visible to
  // products, two groups of them later.
  __device__ void Commit(uint64_t* barrier) {
    CommitCopies();
    WaitForCopies<2>();
    Announce(pending_[0]);
    pending_[0] = pending_[1];
    pending_[1] = SharedBarrier(barrier);
  }

  __device__ static void Announce(const SharedBarrier& barrier) {
    FenceSharedForProducts();
    barrier.Arrive();
  }

  const SelectArgs& args_;
  const SharedMemory<kD>& memory_;
  RingPlace<kStages> keys_;
  RingPlace<1> queries_;
  SharedBarrier pending_[2];
};

}  // namespace salamander::cuda::warpgroup_selection

#endif  // KERNELS_CUDA_SELECTION_WARPGROUP_SELECTION_CUH_
