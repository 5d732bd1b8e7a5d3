// Block selection by warpgroup products (wgmma). A thread block takes tiles of 16 queries of one KV
// head, the longest first. Its 12 warps have three parts:
//   loader (1 warp)        the tile's queries, then its coarse keys and its fine keys, 64 windows
//                          at a time, into a ring of shared memory
//   scorers (2 warpgroups) eight queries each: products of queries and keys, the normaliser, the
//                          weights, their sum over the group, the maximum over a block's windows
//   listers (3 warps)      the best blocks of a tile's queries (block_top_k.cuh), while the scorers
//                          are at the next tile
// Products and exponentials take about the same time, so a scorer has one product under way while
// it works on the result of another.
//
// A scorer's 128 rows, 8 queries of 16 heads, are two products of 64 rows whose left operands stay
// in registers. Rows are dealt out such that a lane's four (two of each product) are heads m, m +
// 4, m + 8 and m + 12 of query lane / 16 of the warp, m = lane / 4 % 4: the sum over a group is
// three additions in the thread and then two exchanges, which also deal out the windows. Windows
// lie in shared memory in such an order that a lane ends up with the four windows that begin in
// block lane % 16 of the 16 blocks of a tile of keys. The window that reaches into the block from
// the one before it comes from the lane below.
//
// A query's result does not depend on its neighbours: tiles of windows start at the same window for
// all, and all sums have a fixed order.
//
// Registers: 64 left operands, 64 accumulators, 16 sums of a thread. Shared memory for heads of
// 128: 64 KiB of keys, 64 KiB of queries, 3 KiB of counters.
#include "kernels/cuda/attention/block_selection_warpgroups.h"
#include "kernels/cuda/attention/block_top_k.cuh"
#include "kernels/cuda/attention/selection_tiles.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda {
namespace {

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

// Memory of a thread block.
template <int kD>
struct SharedMemory {
  static constexpr int kPanelBytes = kWindows * kPanelRowBytes;
  static constexpr int kKeyBytes = kWindows * kD * 2;
  static constexpr int kQueries = kStages * kKeyBytes;
  static constexpr int kCounts = kQueries + kTileQueries * kGroup * kD * 2;
  static constexpr int kScratch = kCounts + kScoreBuffers * kTileQueries * kBins * 4;
  static constexpr int kBarriers = kScratch + kListers * kBins * 4;
  static constexpr int kBytes = kBarriers + static_cast<int>(sizeof(Barriers));

  char* memory;

  __device__ uint32_t Keys(int stage) const { return SharedAddress(memory) + stage * kKeyBytes; }
  __device__ SharedTile<kD> Queries() const { return SharedTile<kD>(memory + kQueries); }
  // By bin, of a query's scores in a buffer.
  __device__ int* Counts(int buffer, int query) const {
    return reinterpret_cast<int*>(memory + kCounts) + (buffer * kTileQueries + query) * kBins;
  }
  __device__ int* Scratch(int lister) const {
    return reinterpret_cast<int*>(memory + kScratch) + lister * kBins;
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
__device__ float* ScoresOf(const SelectArgs& args, int buffer, int query) {
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

// Calls visit(tile) for the thread block's tiles. The thread blocks take turns in alternating
// order, since the first tile of a turn is the longest.
template <typename Visit>
__device__ void VisitTiles(const SelectArgs& args, const Visit& visit) {
  int place = static_cast<int>(blockIdx.x);
  for (int64_t first = 0; first < args.items; first += gridDim.x) {
    if (first + place < args.items) visit(SelectionTile(args, first + place));
    place = static_cast<int>(gridDim.x) - 1 - place;
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

__device__ bool IsFirstLane() {
  return threadIdx.x % kWarp == 0;
}

// Row of shared memory that window `window` of a tile lies in, see the head of this file.
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

// A scoring warpgroup.
template <int kD>
class Scorer {
 public:
  __device__ Scorer(const SelectArgs& args, const SharedMemory<kD>& memory, int scorer)
      : args_(args),
        memory_(memory),
        warp_query_(scorer * kScorerQueries +
                    static_cast<int>(threadIdx.x) % kWarpgroup / kWarp * 2),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {}

  __device__ void Run() {
    VisitTiles(args_, [&](const SelectionTile& tile) {
      if (!tile.IsScored(args_)) return;
      LoadQueries();
      Score(tile);
    });
  }

 private:
  // Of the tile, the lane's.
  __device__ int Query() const { return warp_query_ + lane_ / 16; }

  __device__ void LoadQueries() {
    Barriers& barriers = memory_.barriers();
    SharedBarrier(&barriers.queries_full).Wait(queries_.FullParity());
    const SharedTile<kD> rows = memory_.Queries();
    const int row = lane_ % 8, half = lane_ / 8 % 2;  // of the matrix that the lane gives a row of
#pragma unroll
    for (int product = 0; product < 2; ++product) {
      const int head = row % 4 + 4 * (2 * product + half);
      const int tile_row = (warp_query_ + row / 4) * kGroup + head;
#pragma unroll
      for (int step = 0; step < kD / 16; ++step) {
        LoadMatrices(left_[product][step], rows.Address(tile_row, 2 * step + lane_ / 16));
      }
    }
    __syncwarp();
    if (IsFirstLane()) SharedBarrier(&barriers.queries_empty).Arrive();
    queries_.Advance();
  }

  __device__ void Score(const SelectionTile& tile) {
    Barriers& barriers = memory_.barriers();
    const KeyTiles tiles(args_, tile.LastPosition());
    const int64_t position = tile.position + Query();
    const auto seen = static_cast<int>(args_.coarse.Count(position + 1));
    const auto seen_by_all = static_cast<int>(args_.coarse.Count(tile.position + 1));
    Reset();
    for (int first = 0; first < tiles.coarse * kWindows; first += kWindows) {
      MeetKeys([] {},
               [&](int product) {
                 if (first + kWindows > seen_by_all) Mask(seen - first);
                 Normalise(product);
               });
    }
    FinishNormalisers();
    const int buffer = scores_.Slot();
    const int end = Query() < tile.queries ? static_cast<int>(args_.CandidatesEnd(position)) : 0;
    float* const scores = ScoresOf(args_, buffer, Query());
    SharedBarrier(&barriers.scores_empty[buffer]).Wait(scores_.EmptyParity());
    const auto store_scores = [&](int first) {
      const unsigned score = BlockScore();
      const int block = first + lane_ % 16;
      if (block < static_cast<int>(args_.init_blocks) || block >= end) return;
      scores[block] = __uint_as_float(score);
      atomicAdd(memory_.Counts(buffer, Query()) + ScoreBin::Of(score), 1);
    };
    const auto exponentiate = [&](int product) { Exponentiate(product); };
    MeetKeys([] {}, exponentiate);
    const int last = (tiles.fine - 1) * kBlocks;
    for (int first = 0; first < last; first += kBlocks) {
      MeetKeys([&] { store_scores(first); }, exponentiate);
    }
    store_scores(last);
    __syncwarp();
    if (IsFirstLane()) SharedBarrier(&barriers.scores_full[buffer]).Arrive();
    scores_.Advance();
  }

  // Multiplies with the next tile of keys and calls work_on(0) and work_on(1) when the accumulators
  // hold the one product and the other, and meanwhile() while the first is under way.
  template <typename Meanwhile, typename WorkOn>
  __device__ void MeetKeys(const Meanwhile& meanwhile, const WorkOn& work_on) {
    Barriers& barriers = memory_.barriers();
    SharedBarrier(&barriers.keys_full[keys_.Slot()]).Wait(keys_.FullParity());
    StartProduct(left_[0]);
    meanwhile();
    FinishProduct();
    work_on(0);
    StartProduct(left_[1]);
    FinishProduct();
    if (IsFirstLane()) SharedBarrier(&barriers.keys_empty[keys_.Slot()]).Arrive();
    keys_.Advance();
    work_on(1);
  }

  __device__ void Reset() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      maximum_[i / 2][i % 2] = -INFINITY;
      sum_[i / 2][i % 2] = 0.0F;
    }
    reaching_ = 0;
  }

  __device__ void StartProduct(const uint32_t (&left)[kD / 16][4]) {
    const uint32_t keys = memory_.Keys(keys_.Slot());
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      const uint32_t panel = keys + step / 4 * SharedMemory<kD>::kPanelBytes;
      WarpgroupMultiplyAdd<false>(d_, left[step], AlongColumns(panel, 0, step % 4 * 16), step > 0);
    }
    CommitProducts();
  }

  // Keeps the compiler from moving what reads accumulators to before the wait for them.
  __device__ void FinishProduct() {
    WaitForProducts<0>();
#pragma unroll
    for (int i = 0; i < kWindows / 8; ++i) {
      asm volatile("" : "+f"(d_[i][0]), "+f"(d_[i][1]), "+f"(d_[i][2]), "+f"(d_[i][3])::"memory");
    }
  }

  // Leaves the first `seen` windows of the tile.
  __device__ void Mask(int seen) {
    const int lane_window = lane_ % 4 * kWindowsPerBlock;
#pragma unroll
    for (int i = 0; i < kWindows / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (WindowOfRow(8 * i) + j % 2 + lane_window >= seen) d_[i][j] = -INFINITY;
      }
    }
  }

  // Adds the lane's windows to its shares of the normalisers of its two rows in a product.
  __device__ void Normalise(int product) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int i = 0; i < kWindows / 8; ++i) {
        largest = fmaxf(largest, fmaxf(d_[i][2 * half], d_[i][2 * half + 1]));
      }
      float& maximum = maximum_[product][half];
      const float before = maximum;
      maximum = fmaxf(before, largest * args_.scale);
      const float shift = maximum == -INFINITY ? 0.0F : maximum;
      float added[2] = {0.0F, 0.0F};
#pragma unroll
      for (int i = 0; i < kWindows / 8; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
          added[j] += Exp2(fmaf(d_[i][2 * half + j], args_.scale, -shift));
      }
      float& sum = sum_[product][half];
      sum = sum * Exp2(before - shift) + (added[0] + added[1]);
    }
  }

  // The coarse log-sum-exp of the lane's rows, in base 2, with its sign reversed, in maximum_;
  // -infinity where a row sees no coarse key or where it is NaN, so that weights become
  // 2^-infinity, or NaN where NaN is.
  __device__ void FinishNormalisers() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& maximum = maximum_[i / 2][i % 2];
      float largest = fmaxf(maximum, __shfl_xor_sync(kFullMask, maximum, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 2));
      float sum = sum_[i / 2][i % 2] * Exp2(maximum - (largest == -INFINITY ? 0.0F : largest));
      sum += __shfl_xor_sync(kFullMask, sum, 1);
      sum += __shfl_xor_sync(kFullMask, sum, 2);
      maximum = sum > 0.0F ? -(largest + log2f(sum)) : -INFINITY;
    }
  }

  // Adds the weights of the lane's two rows in a product to weights_, by window.
  __device__ void Exponentiate(int product) {
#pragma unroll
    for (int i = 0; i < kWindows / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float pair = Exp2(fmaf(d_[i][j], args_.scale, maximum_[product][0])) +
                           Exp2(fmaf(d_[i][j + 2], args_.scale, maximum_[product][1]));
        float& weight = weights_[2 * i + j];
        weight = product == 0 ? pair : weight + pair;
      }
    }
  }

  // Of the first 2 kCount windows or the others, as the lane's bit `lane_bit` says, the sums of the
  // lane's and the lane's across.
  template <int kCount>
  __device__ void SumAcross(int lane_bit) {
    const bool is_upper = (lane_ & lane_bit) != 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float sent = is_upper ? weights_[i] : weights_[i + kCount];
      const float kept = is_upper ? weights_[i + kCount] : weights_[i];
      weights_[i] = kept + __shfl_xor_sync(kFullMask, sent, lane_bit);
    }
  }

  // The bits of the score of the query's block lane % 16 of a tile of keys. A NaN is read, not
  // passed over: by its bits it is above infinity, as which it counts.
  __device__ unsigned BlockScore() {
    SumAcross<8>(8);
    SumAcross<4>(4);
    unsigned windows[kWindowsPerBlock];
#pragma unroll
    for (int i = 0; i < kWindowsPerBlock; ++i) windows[i] = __float_as_uint(weights_[i]);
    const unsigned last = windows[kWindowsPerBlock - 1];
    const unsigned sent = lane_ % 16 == 15 ? reaching_ : last;
    reaching_ = last;
    const unsigned from_before = __shfl_sync(kFullMask, sent, lane_ / 16 * 16 + (lane_ + 15) % 16);
    const unsigned own = max(max(windows[0], windows[1]), max(windows[2], windows[3]));
    return min(max(own, from_before), kHighestScore);
  }

  const SelectArgs& args_;
  const SharedMemory<kD>& memory_;
  const int warp_query_, lane_;
  RingPlace<kStages> keys_;
  RingPlace<1> queries_;
  RingPlace<kScoreBuffers> scores_;
  uint32_t left_[2][kD / 16][4];
  float d_[kWindows / 8][4];
  float maximum_[2][2], sum_[2][2];  // [product, half]
  float weights_[kWindows / 4];
  unsigned reaching_;  // the lane's last window of the tile of keys before
};

// By kCount threads.
template <int kCount>
__device__ void ZeroCounts(int* counts, int size, int thread) {
  for (int i = thread * 4; i < size; i += kCount * 4) *reinterpret_cast<int4*>(counts + i) = {};
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
      const float* const scores = ScoresOf(args, buffer, query);
      int* const counts = memory.Counts(buffer, query);
      const auto find_cut = [&](int begin, int end, int places) {
        const CutBin cut(counts, places);
        return FindCut(scores, begin, end,
                       {ScoreBin::Low(cut.bin), ScoreBin::High(cut.bin), cut.places, cut.count},
                       memory.Scratch(lister));
      };
      ListBlocks(args, tile.position + query, scores, find_cut,
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

// Grid: as many blocks as stay resident. Block: the loader and the listers are the first
// warpgroup, then the scorers.
template <int kD>
__global__ void __launch_bounds__(kThreads, 1) WarpgroupSelectKernel(const SelectArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) char memory[];
  const SharedMemory<kD> shared{memory};
  if (threadIdx.x == 0) shared.InitBarriers();
  ZeroCounts<kThreads>(shared.Counts(0, 0), kScoreBuffers * kTileQueries * kBins, threadIdx.x);
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (warp < 4) {
    GiveRegisters<kOtherRegisters>();
    if (warp == 0) {
      Loader<kD>(args, shared).Run();
    } else {
      ListTiles(args, shared, warp - 1);
    }
  } else {
    TakeRegisters<kScorerRegisters>();
    Scorer<kD>(args, shared, warp / 4 - 1).Run();
  }
#endif
}

}  // namespace

bool CanSelectByWarpgroups(const ExecutionContext& context, const SelectArgs& args) {
  const int head_dim = args.rows.head_dim;
  return context.cuda->has_warpgroups() && args.rows.group == kGroup &&
         (head_dim == 64 || head_dim == 128) && args.rows.is_aligned && args.rows.scale > 0.0F &&
         args.fine.size == 2 * args.fine.stride &&
         args.block_size == kWindowsPerBlock * args.fine.stride && args.local_blocks > 0;
}

absl::Status SelectByWarpgroups(const ExecutionContext& context, const SelectArgs& args,
                                int64_t thread_blocks) {
  const auto launch = [&]<int kD>() {
    return Launch(
        context, "WarpgroupSelectKernel", WarpgroupSelectKernel<kD>,
        {.grid = {thread_blocks}, .block = kThreads, .shared_bytes = SharedMemory<kD>::kBytes},
        args);
  };
  return args.rows.head_dim == 64 ? launch.template operator()<64>()
                                  : launch.template operator()<128>();
}

}  // namespace salamander::cuda
