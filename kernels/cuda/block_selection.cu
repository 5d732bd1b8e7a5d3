// Block selection. A tile of queries of one KV head, with all heads of its group as rows, meets the
// coarse keys for the normaliser and the fine keys for the scores, by tensor cores with fp32
// accumulation. Scores are summed over the group and raised into one score per block in scratch
// memory of a thread block's own; then a warp takes the best blocks of a query by radix selection.
// Only windows that touch a block which is not forced are scored.
//
// A query's result does not depend on its neighbours: tiles of windows start at the same window for
// all, and the sums over heads have a fixed order.
#include <algorithm>
#include <vector>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/block_attention_tiles.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

constexpr int kPoolThreads = 256;
constexpr int kBins = 256;
constexpr int kScorePitch = kPieceKeys + 1;
constexpr int64_t kScratchBytes = int64_t{256} << 20;
constexpr int kBlocksPerMultiprocessor = 2;

// Windows of one level over a segment's keys.
struct Windows {
  int64_t size, stride;

  // Windows that end before position `keys`.
  __host__ __device__ int64_t Count(int64_t keys) const {
    return keys < size ? 0 : (keys - size) / stride + 1;
  }
  __host__ __device__ int64_t LastPosition(int64_t window) const {
    return window * stride + size - 1;
  }
  // Windows that end at `position` or later start here.
  __host__ __device__ int64_t FirstEndingAt(int64_t position) const {
    return position < size ? 0 : (position - size) / stride + 1;
  }
};

Windows FineWindows(const BlockSelectionShape& shape) {
  return {shape.kernel_size, shape.kernel_stride};
}

Windows CoarseWindows(const BlockSelectionShape& shape) {
  return {4 * shape.kernel_size, 4 * shape.kernel_stride};
}

// Windows [first_window, ...) of a segment, its items from first_item on.
struct PoolSegment {
  int64_t key_begin, first_window, first_item;
};

struct PoolArgs {
  const BFloat16* keys;  // [Tk, Hkv * D]
  BFloat16* pooled;      // [rows, Hkv * D]
  const PoolSegment* segments;
  int segment_count;
  Windows windows;
  int64_t items, width;
  bool is_aligned;
};

// Grid: 256 threads a block over (window, eight columns), columns fastest.
__global__ void PoolKernel(const PoolArgs args) {
  const int64_t vectors = CeilDivide(args.width, kLanes);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (index >= args.items * vectors) return;
  const int64_t item = index / vectors, column = index % vectors * kLanes;
  int low = 0, high = args.segment_count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (args.segments[middle].first_item <= item) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const PoolSegment segment = args.segments[low];
  const int64_t window = segment.first_window + item - segment.first_item;
  const BFloat16* row = args.keys + (segment.key_begin + window * args.windows.stride) * args.width;
  float sums[kLanes] = {};
  for (int64_t i = 0; i < args.windows.size; ++i, row += args.width) {
    float values[kLanes];
    Unpack(LoadPacked(row, column, args.width, args.is_aligned), values);
#pragma unroll
    for (int j = 0; j < kLanes; ++j) sums[j] += values[j];
  }
  const float inverse = 1.0F / static_cast<float>(args.windows.size);
#pragma unroll
  for (int j = 0; j < kLanes; ++j) sums[j] *= inverse;
  StorePacked(PackEight(sums),
              args.pooled + (segment.key_begin / args.windows.stride + window) * args.width, column,
              args.width, args.is_aligned);
}

absl::Status PoolLevel(const ExecutionContext& context, const PoolKeysArgs& args,
                       const Windows& windows, const TensorView& pooled) {
  PoolArgs device = {};
  std::vector<PoolSegment> segments;
  for (const Segment& segment : args.segments) {
    const int64_t first = args.only_new ? windows.FirstEndingAt(segment.first_position) : 0;
    const int64_t end = windows.Count(segment.key_count());
    if (end <= first) continue;
    segments.push_back({segment.key_begin, first, device.items});
    device.items += end - first;
  }
  if (segments.empty()) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  ASSIGN_OR_RETURN(device.segments,
                   UploadArray<PoolSegment>(context, absl::MakeConstSpan(segments)));
  device.segment_count = static_cast<int>(segments.size());
  device.keys = BFloat16Data(args.k);
  device.pooled = BFloat16Data(pooled);
  device.windows = windows;
  device.width = args.k.row_size();
  device.is_aligned = device.width % kLanes == 0 && AreAligned({device.keys, device.pooled});
  const int64_t blocks = CeilDivide(device.items * CeilDivide(device.width, kLanes), kPoolThreads);
  return Launch(context, "PoolKernel", PoolKernel, {.grid = {blocks}, .block = kPoolThreads},
                device);
}

struct SelectArgs {
  AttentionArgs rows;  // q, heads and segments
  const BFloat16 *fine_keys, *coarse_keys;
  Windows fine, coarse;
  int64_t block_size, init_blocks, local_blocks;
  int selected_blocks;
  int tile_queries, tile_rows;  // rows: queries * G
  int64_t items;
  int64_t score_pitch;
  float* scores;    // [thread blocks, tile_queries, score_pitch]
  int32_t* blocks;  // [T, Hkv, selected_blocks]

  // Blocks [begin, end) that compete by score for the query at a position.
  __device__ int64_t CandidatesBegin(int64_t position) const {
    return min(init_blocks, position / block_size + 1);
  }
  __device__ int64_t CandidatesEnd(int64_t position) const {
    return max(CandidatesBegin(position), position / block_size - local_blocks);
  }
};

// 64 of a tile's rows: row r is query r / G with head r % G.
struct SelectionRows {
  int64_t first_query;  // of the tile
  int first, count;     // rows of the tile
  int key_head;

  __device__ int Query(const AttentionArgs& args, int row) const {
    return (first + row) / args.group;
  }
  __device__ int64_t Index(const AttentionArgs& args, const SegmentPlan& segment, int row) const {
    const int query = Query(args, row);
    return (segment.query_begin + first_query + query) * args.heads +
           static_cast<int64_t>(key_head) * args.group + first + row - query * args.group;
  }
};

// Memory of a thread block.
template <int kD>
struct SelectionMemory {
  static constexpr int kTileBytes = SharedTile<kD>::Bytes(kPieceKeys);
  static constexpr int kScores = 3 * kTileBytes;  // [64 rows, pitch]
  static constexpr int kSums = kScores + kTileRows * kScorePitch * 4;

  // Then [queries, 64] sums over the group and [rows] normalisers.
  static int Bytes(const SelectArgs& args) {
    return kSums + 4 * (args.tile_queries * kPieceKeys + args.tile_rows);
  }
};

template <int kD>
class TileScorer {
 public:
  __device__ TileScorer(const SelectArgs& args, const SegmentPlan& segment, char* memory,
                        int key_head, int64_t first_query, int queries, float* block_scores)
      : args_(args),
        segment_(segment),
        memory_(memory),
        key_head_(key_head),
        first_query_(first_query),
        queries_(queries),
        rows_(queries * args.rows.group),
        first_position_(segment.first_position + first_query),
        scores_(reinterpret_cast<float*>(memory + SelectionMemory<kD>::kScores)),
        sums_(reinterpret_cast<float*>(memory + SelectionMemory<kD>::kSums)),
        normalisers_(sums_ + args.tile_queries * kPieceKeys),
        block_scores_(block_scores) {}

  __device__ void Run() {
    const int64_t last_position = first_position_ + queries_ - 1;
    const int64_t block_begin = args_.CandidatesBegin(last_position);
    const int64_t block_end = args_.CandidatesEnd(last_position);
    for (int query = 0; query < queries_; ++query) {
      for (int64_t block = block_begin + threadIdx.x; block < block_end; block += kTileThreads) {
        block_scores_[query * args_.score_pitch + block] = 0.0F;
      }
    }
    for (int first = 0; first < rows_; first += kTileRows) Normalise(first, last_position);
    const int64_t begin = args_.fine.FirstEndingAt(block_begin * args_.block_size);
    const int64_t end = min(args_.fine.Count(last_position + 1),
                            (block_end * args_.block_size - 1) / args_.fine.stride + 1);
    if (begin < end) LoadWindows(args_.fine_keys, args_.fine, begin, end, 0);
    CommitCopies();
    int stage = 0;
    for (int64_t first = begin; first < end; first += kPieceKeys, stage ^= 1) {
      if (first + kPieceKeys < end) {
        LoadWindows(args_.fine_keys, args_.fine, first + kPieceKeys, end, stage ^ 1);
      }
      CommitCopies();
      WaitForCopies<1>();
      __syncthreads();
      const int count = static_cast<int>(min(end - first, static_cast<int64_t>(kPieceKeys)));
      ScoreWindows(stage, first, count);
      RaiseBlockScores(first, count, block_begin, block_end);
      __syncthreads();
    }
  }

 private:
  __device__ SharedTile<kD> Keys(int stage) const {
    return SharedTile<kD>(memory_ + stage * SelectionMemory<kD>::kTileBytes);
  }

  __device__ SelectionRows Rows(int first) const {
    return {first_query_, first, min(kTileRows, rows_ - first), key_head_};
  }

  __device__ void LoadWindows(const BFloat16* pooled, const Windows& windows, int64_t first,
                              int64_t end, int stage) const {
    const int count = static_cast<int>(min(end - first, static_cast<int64_t>(kPieceKeys)));
    LoadKeys(args_.rows, key_head_, segment_.key_begin / windows.stride + first, count, pooled,
             Keys(stage));
  }

  // Rows [first, first + 64) of the tile as left operands. Every thread calls.
  __device__ void LoadQueries(int first) {
    const SharedTile<kD> tile(memory_ + 2 * SelectionMemory<kD>::kTileBytes);
    __syncthreads();
    LoadRows(args_.rows, segment_, Rows(first), args_.rows.q, tile);
    CommitCopies();
    WaitForCopies<0>();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      tile.LoadLeft(static_cast<int>(threadIdx.x) / kWarp * 16, step, left_[step]);
    }
    loaded_rows_ = first;
  }

  // Row of the 64 that a thread's accumulators `half` hold.
  __device__ static int ThreadRow(int half) {
    return static_cast<int>(threadIdx.x) / kWarp * 16 + static_cast<int>(threadIdx.x) % kWarp / 4 +
           8 * half;
  }

  // Windows of a level that a row of the 64 sees; none where there is no such row.
  __device__ int64_t SeenWindows(int first, int row, const Windows& windows) const {
    const SelectionRows rows = Rows(first);
    if (row >= rows.count) return 0;
    return windows.Count(first_position_ + rows.Query(args_.rows, row) + 1);
  }

  __device__ void Multiply(int stage, int count, float (&d)[8][4]) const {
    SetZero(d);
    MultiplyRows<kD, 4>(
        [&](int step, uint32_t(&a)[4]) {
#pragma unroll
          for (int i = 0; i < 4; ++i) a[i] = left_[step][i];
        },
        Keys(stage), 0, count, d);
  }

  // Leaves the coarse log-sum-exp of 64 rows, in base 2, in normalisers_; infinity where a row sees
  // no coarse key, so that its weights become 2^-infinity.
  __device__ void Normalise(int first_row, int64_t last_position) {
    LoadQueries(first_row);
    const float scale = args_.rows.scale * kLog2E;
    const int64_t end = args_.coarse.Count(last_position + 1);
    const int64_t seen[2] = {SeenWindows(first_row, ThreadRow(0), args_.coarse),
                             SeenWindows(first_row, ThreadRow(1), args_.coarse)};
    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0F, 0.0F};
    if (end > 0) LoadWindows(args_.coarse_keys, args_.coarse, 0, end, 0);
    CommitCopies();
    int stage = 0;
    for (int64_t first = 0; first < end; first += kPieceKeys, stage ^= 1) {
      if (first + kPieceKeys < end) {
        LoadWindows(args_.coarse_keys, args_.coarse, first + kPieceKeys, end, stage ^ 1);
      }
      CommitCopies();
      WaitForCopies<1>();
      __syncthreads();
      float logits[8][4];
      Multiply(stage, static_cast<int>(min(end - first, static_cast<int64_t>(kPieceKeys))), logits);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        AddExponentials(logits, half, seen[half] - first, scale, maximum[half], sum[half]);
      }
      __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += __shfl_xor_sync(kFullMask, sum[half], 1);
      sum[half] += __shfl_xor_sync(kFullMask, sum[half], 2);
      const int row = first_row + ThreadRow(half);
      if (threadIdx.x % 4 == 0 && row < rows_) {
        normalisers_[row] = sum[half] > 0.0F ? maximum[half] + log2f(sum[half]) : INFINITY;
      }
    }
  }

  // Of the logits in `half`, those of the first `seen` columns count. The sum is the thread's
  // share.
  __device__ static void AddExponentials(float (&logits)[8][4], int half, int64_t seen, float scale,
                                         float& maximum, float& sum) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const float before = maximum;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& logit = logits[i][2 * half + j];
        logit = i * 8 + lane % 4 * 2 + j < seen ? logit * scale : -INFINITY;
        maximum = fmaxf(maximum, logit);
      }
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(kFullMask, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(kFullMask, maximum, 2));
    const float shift = maximum == -INFINITY ? 0.0F : maximum;
    float added = 0.0F;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) added += Exp2(logits[i][2 * half + j] - shift);
    }
    sum = sum * Exp2(before - shift) + added;
  }

  // sums_[query, column]: the weights of fine windows [first, first + count), summed over the
  // group.
  __device__ void ScoreWindows(int stage, int64_t first, int count) {
    const float scale = args_.rows.scale * kLog2E;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int first_row = 0; first_row < rows_; first_row += kTileRows) {
      if (loaded_rows_ != first_row) LoadQueries(first_row);
      float logits[8][4];
      Multiply(stage, count, logits);
      const int stored_rows = min(kTileRows, rows_ - first_row);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = ThreadRow(half);
        if (row >= stored_rows) continue;
        const int64_t seen = SeenWindows(first_row, row, args_.fine) - first;
        const float normaliser = normalisers_[first_row + row];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int column = i * 8 + lane % 4 * 2 + j;
            scores_[row * kScorePitch + column] =
                column < seen ? Exp2(fmaf(logits[i][2 * half + j], scale, -normaliser)) : 0.0F;
          }
        }
      }
      __syncthreads();
      SumGroups(first_row, stored_rows);
      __syncthreads();
    }
  }

  // Adds the stored rows of each query in order; a group wider than 64 heads takes several calls.
  __device__ void SumGroups(int first_row, int stored_rows) {
    const int group = args_.rows.group;
    const int first_query = first_row / group,
              end_query = (first_row + stored_rows - 1) / group + 1;
    for (int i = static_cast<int>(threadIdx.x); i < (end_query - first_query) * kPieceKeys;
         i += kTileThreads) {
      const int query = first_query + i / kPieceKeys, column = i % kPieceKeys;
      const int begin = max(query * group - first_row, 0);
      const int end = min((query + 1) * group - first_row, stored_rows);
      float* const place = &sums_[query * kPieceKeys + column];
      float sum = query * group < first_row ? *place : 0.0F;
      for (int row = begin; row < end; ++row) sum += scores_[row * kScorePitch + column];
      *place = sum;
    }
  }

  // Blocks [block_begin, block_end) that windows [first, first + count) overlap.
  __device__ void RaiseBlockScores(int64_t first, int count, int64_t block_begin,
                                   int64_t block_end) {
    const int64_t last = first + count - 1;
    const int64_t size = args_.block_size, stride = args_.fine.stride;
    const int64_t begin = max(block_begin, first * stride / size);
    const int64_t end = min(block_end, args_.fine.LastPosition(last) / size + 1);
    const int64_t blocks = end - begin;
    for (int64_t i = threadIdx.x; i < blocks * queries_; i += kTileThreads) {
      const int64_t query = i / blocks, block = begin + i % blocks;
      const int64_t low = max(first, args_.fine.FirstEndingAt(block * size));
      const int64_t high = min(last, ((block + 1) * size - 1) / stride);
      float* const place = &block_scores_[query * args_.score_pitch + block];
      float best = *place;
      for (int64_t window = low; window <= high; ++window) {
        best = fmaxf(best, sums_[query * kPieceKeys + window - first]);
      }
      *place = best;
    }
  }

  const SelectArgs& args_;
  const SegmentPlan& segment_;
  char* memory_;
  const int key_head_;
  const int64_t first_query_;
  const int queries_, rows_;
  const int64_t first_position_;
  float *scores_, *sums_, *normalisers_;
  float* block_scores_;
  uint32_t left_[kD / 16][4];
  int loaded_rows_ = -1;
};

// The `places`-th largest of scores [begin, end), by bits, and how many equal to it are among the
// `places` best. Scores are not negative, so their bits order them. By a warp; bins: kBins
// counters.
__device__ void FindCut(const float* scores, int64_t begin, int64_t end, int places, int* bins,
                        unsigned& cut, int& ties) {
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
__device__ void ListBlocks(const SelectArgs& args, int64_t position, const float* scores, int* bins,
                           int32_t* list) {
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

// Grid: as many blocks as stay resident, each takes every gridDim.x-th (segment, query tile, KV
// head), the last tiles of a segment first. Block: four warps; in scoring warp w owns 16 of 64
// rows.
template <int kD>
__global__ void __launch_bounds__(kTileThreads, 2) SelectKernel(const SelectArgs args) {
  extern __shared__ __align__(128) char memory[];
  __shared__ int bins[kTileThreads / kWarp][kBins];
  const AttentionArgs& rows = args.rows;
  float* const block_scores = args.scores + blockIdx.x * args.tile_queries * args.score_pitch;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const SegmentPlan segment = SegmentOfItem(rows.segments, rows.segment_count, item);
    const int64_t local = item - segment.first_item;
    const int key_head = static_cast<int>(local % rows.key_heads);
    const int64_t tiles = CeilDivide(segment.query_count, args.tile_queries);
    const int64_t first_query = (tiles - 1 - local / rows.key_heads) * args.tile_queries;
    const int queries = static_cast<int>(
        min(segment.query_count - first_query, static_cast<int64_t>(args.tile_queries)));
    const int64_t position = segment.first_position + first_query;
    if ((position + queries - 1) / args.block_size + 1 > args.selected_blocks) {
      TileScorer<kD>(args, segment, memory, key_head, first_query, queries, block_scores).Run();
    }
    for (int query = warp; query < queries; query += kTileThreads / kWarp) {
      const int64_t row = segment.query_begin + first_query + query;
      ListBlocks(args, position + query, block_scores + query * args.score_pitch, bins[warp],
                 args.blocks + (row * rows.key_heads + key_head) * args.selected_blocks);
    }
    __syncthreads();
  }
}

SelectArgs MakeSelectArgs(const SelectBlocksArgs& args) {
  SelectArgs select = {};
  select.rows = MakeAttentionArgs({.q = args.q,
                                   .k = args.fine_keys,
                                   .v = args.coarse_keys,
                                   .segments = args.segments,
                                   .blocks = {},
                                   .block_size = args.shape.block_size,
                                   .scale = args.scale});
  select.fine_keys = select.rows.k;
  select.coarse_keys = select.rows.v;
  select.fine = FineWindows(args.shape);
  select.coarse = CoarseWindows(args.shape);
  select.block_size = args.shape.block_size;
  select.init_blocks = args.shape.init_blocks;
  select.local_blocks = args.shape.local_blocks;
  select.selected_blocks = static_cast<int>(args.shape.selected_blocks);
  select.tile_queries = std::max(1, kTileRows / select.rows.group);
  select.tile_rows = select.tile_queries * select.rows.group;
  select.blocks = args.blocks.data<int32_t>();
  return select;
}

}  // namespace

absl::Status PoolKeys(const ExecutionContext& context, const PoolKeysArgs& args) {
  RETURN_IF_ERROR(PoolLevel(context, args, FineWindows(args.shape), args.fine_keys));
  return PoolLevel(context, args, CoarseWindows(args.shape), args.coarse_keys);
}

absl::Status SelectBlocks(const ExecutionContext& context, const SelectBlocksArgs& args) {
  RETURN_IF_ERROR(CheckHeadDim("SelectBlocks", args.q.dim(2)));
  const ArenaScope scope(*context.arena);
  SelectArgs select = MakeSelectArgs(args);
  std::vector<SegmentPlan> segments;
  for (const Segment& segment : args.segments) {
    SegmentPlan entry = {segment.query_begin, segment.query_count, segment.key_begin,
                         segment.first_position};
    entry.first_item = select.items;
    segments.push_back(entry);
    select.items += CeilDivide(segment.query_count, select.tile_queries) * select.rows.key_heads;
    select.score_pitch =
        std::max(select.score_pitch, CeilDivide(segment.key_count(), args.shape.block_size));
  }
  if (segments.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(select.rows.segments,
                   UploadArray<SegmentPlan>(context, absl::MakeConstSpan(segments)));
  select.rows.segment_count = static_cast<int>(segments.size());
  const int64_t scores_per_block = select.tile_queries * select.score_pitch;
  const int64_t blocks =
      std::min({select.items, int64_t{kBlocksPerMultiprocessor} * context.cuda->multiprocessors(),
                std::max<int64_t>(1, kScratchBytes / 4 / scores_per_block)});
  select.scores = context.arena->Array<float>(blocks * scores_per_block);
  return ForTileColumns(select.rows.head_dim, [&]<int kD>() -> absl::Status {
    const int bytes = SelectionMemory<kD>::Bytes(select);
    return Launch(context, "SelectKernel", SelectKernel<kD>,
                  {.grid = {blocks}, .block = kTileThreads, .shared_bytes = bytes}, select);
  });
}

}  // namespace salamander::cuda
