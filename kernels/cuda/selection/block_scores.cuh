// The scores of a query tile's blocks: coarse keys give each row's normaliser, fine keys its
// scores, which are summed over the group of heads and raised into the block that each window
// touches. Tiles of windows start at the same window for all queries and the sums over heads have a
// fixed order, so that a query's scores do not depend on its neighbours.
#ifndef KERNELS_CUDA_SELECTION_BLOCK_SCORES_CUH_
#define KERNELS_CUDA_SELECTION_BLOCK_SCORES_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/selection/selection_tiles.cuh"

namespace salamander::cuda {

constexpr int kScorePitch = kPieceKeys + 1;

// 64 of a tile's rows: row r is query r / G with head r % G.
struct SelectionRows {
  int first, count;  // rows of the tile

  __device__ int Query(const AttentionArgs& args, int row) const {
    return (first + row) / args.group;
  }
  // Of row `row` in [T, H].
  __device__ int64_t Index(const AttentionArgs& args, const SelectionTile& tile, int row) const {
    const int query = Query(args, row);
    return (tile.query_row + query) * args.heads +
           static_cast<int64_t>(tile.key_head) * args.group + first + row - query * args.group;
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
  __device__ TileScorer(const SelectArgs& args, const SelectionTile& tile, char* memory,
                        float* block_scores)
      : args_(args),
        tile_(tile),
        memory_(memory),
        rows_(tile.queries * args.rows.group),
        scores_(reinterpret_cast<float*>(memory + SelectionMemory<kD>::kScores)),
        sums_(reinterpret_cast<float*>(memory + SelectionMemory<kD>::kSums)),
        normalisers_(sums_ + args.tile_queries * kPieceKeys),
        block_scores_(block_scores) {}

  __device__ void Run() {
    const int64_t last_position = tile_.LastPosition();
    const int64_t block_begin = args_.CandidatesBegin(last_position);
    const int64_t block_end = args_.CandidatesEnd(last_position);
    for (int query = 0; query < tile_.queries; ++query) {
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

  __device__ SelectionRows Rows(int first) const { return {first, min(kTileRows, rows_ - first)}; }

  __device__ void LoadWindows(const BFloat16* pooled, const Windows& windows, int64_t first,
                              int64_t end, int stage) const {
    const int count = static_cast<int>(min(end - first, static_cast<int64_t>(kPieceKeys)));
    LoadKeys(args_.rows, tile_.key_head, tile_.key_row / windows.stride + first, count, pooled,
             Keys(stage));
  }

  // Rows [first, first + 64) of the tile as left operands. Every thread calls.
  __device__ void LoadQueries(int first) {
    const SharedTile<kD> tile(memory_ + 2 * SelectionMemory<kD>::kTileBytes);
    __syncthreads();
    const SelectionRows rows = Rows(first);
    FillTile(args_.rows, args_.rows.q, tile, [&](int row) {
      return row < rows.count ? rows.Index(args_.rows, tile_, row) * args_.rows.head_dim
                              : int64_t{-1};
    });
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
    return windows.Count(tile_.position + rows.Query(args_.rows, row) + 1);
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
  // no coarse key or where it is NaN, so that weights become 2^-infinity, or NaN where NaN is.
  __device__ void Normalise(int first_row, int64_t last_position) {
    LoadQueries(first_row);
    const float scale = args_.scale;
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
    const float scale = args_.scale;
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
    for (int64_t i = threadIdx.x; i < blocks * tile_.queries; i += kTileThreads) {
      const int64_t query = i / blocks, block = begin + i % blocks;
      const int64_t low = max(first, args_.fine.FirstEndingAt(block * size));
      const int64_t high = min(last, ((block + 1) * size - 1) / stride);
      float* const place = &block_scores_[query * args_.score_pitch + block];
      float best = *place;
      for (int64_t window = low; window <= high; ++window) {
        const float score = sums_[query * kPieceKeys + window - first];
        best = fmaxf(best, isnan(score) ? INFINITY : score);  // a NaN is read, not passed over
      }
      *place = best;
    }
  }

  const SelectArgs& args_;
  const SelectionTile& tile_;
  char* memory_;
  const int rows_;
  float *scores_, *sums_, *normalisers_;
  float* block_scores_;
  uint32_t left_[kD / 16][4];
  int loaded_rows_ = -1;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_SELECTION_BLOCK_SCORES_CUH_
