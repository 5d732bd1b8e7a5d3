// Block selection. A task is (segment, KV head, query tile): the tile's queries against coarse keys
// for the normaliser, against fine keys for the scores, then the best blocks of each query. Only
// windows that touch a block which is not forced are scored, and no array is larger than a tile's
// queries times the blocks before them.
//
// Rows of a tile are (head g, query i) at g * head_stride + i, so that the sum over a group adds
// whole vectors of queries.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <omp.h>

#include "kernels/backend_ops.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/small_matrix.h"
#include "kernels/cpu/vector_math.h"

namespace salamander::cpu {
namespace {

// Pooled keys that meet a tile's queries at once.
constexpr int64_t kPooledTile = 64;

// Windows of one level over a segment's keys.
struct Windows {
  int64_t size, stride;

  // Windows that end before position `keys`.
  int64_t Count(int64_t keys) const { return keys < size ? 0 : (keys - size) / stride + 1; }
  int64_t LastPosition(int64_t window) const { return window * stride + size - 1; }
  // Windows that end at `position` or later start here.
  int64_t FirstEndingAt(int64_t position) const {
    return position < size ? 0 : (position - size) / stride + 1;
  }
};

Windows FineWindows(const BlockSelectionShape& shape) {
  return {shape.kernel_size, shape.kernel_stride};
}

Windows CoarseWindows(const BlockSelectionShape& shape) {
  return {4 * shape.kernel_size, 4 * shape.kernel_stride};
}

template <typename T>
void PoolWindow(const TensorView& k, int64_t first_row, int64_t size, T* pooled) {
  const int64_t width = k.row_size();
  const T* rows = k.data<T>() + first_row * width;
  std::fill_n(pooled, width, T{0});
  for (int64_t row = 0; row < size; ++row) {
    for (int64_t d = 0; d < width; ++d) pooled[d] += rows[row * width + d];
  }
  const T inverse = T{1} / static_cast<T>(size);
  for (int64_t d = 0; d < width; ++d) pooled[d] *= inverse;
}

template <typename T>
void Pool(const PoolKeysArgs& args) {
  struct Level {
    Windows windows;
    T* pooled;
  };
  const Level levels[] = {{FineWindows(args.shape), args.fine_keys.data<T>()},
                          {CoarseWindows(args.shape), args.coarse_keys.data<T>()}};
  const int64_t width = args.k.row_size();
#pragma omp parallel
  for (const Segment& segment : args.segments) {
    for (const Level& level : levels) {
      const int64_t first = args.only_new ? level.windows.FirstEndingAt(segment.first_position) : 0;
      const int64_t end = level.windows.Count(segment.key_count());
      T* pooled = level.pooled + segment.key_begin / level.windows.stride * width;
#pragma omp for schedule(static) nowait
      for (int64_t window = first; window < end; ++window) {
        PoolWindow(args.k, segment.key_begin + window * level.windows.stride, level.windows.size,
                   pooled + window * width);
      }
    }
  }
}

template <typename T>
struct Scratch {
  T* queries;       // [D, rows], scaled
  T* scores;        // [pooled tile, rows]
  T* maximum;       // [rows]
  T* denominator;   // [rows]
  T* group_scores;  // [queries]
  T* block_scores;  // [blocks, queries]
  T* ranked;        // [blocks]
};

template <typename T>
class SelectionPass {
 public:
  SelectionPass(const ExecutionContext& context, const SelectBlocksArgs& args)
      : args_(args),
        heads_(args.q.dim(1)),
        key_heads_(args.blocks.dim(1)),
        group_(heads_ / key_heads_),
        dim_(args.q.dim(2)),
        tile_queries_(std::max<int64_t>(Simd<T>::kPadding, TileQueries(group_))),
        arena_(*context.arena),
        scope_(arena_) {}

  void Run() {
    const int64_t tasks = Plan();
    const int threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), tasks));
    if (threads == 0) return;
    auto* scratch = arena_.Array<Scratch<T>>(threads);
    for (int thread = 0; thread < threads; ++thread) scratch[thread] = NewScratch();
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) RunTask(task, scratch[omp_get_thread_num()]);
  }

 private:
  // What a task works on; the head stride is that of its rows.
  struct Tile {
    const Segment& segment;
    int64_t key_head;
    QueryTile queries;
    int64_t head_stride, padded_rows;

    int64_t last_position() const { return queries.position + queries.count - 1; }
  };

  int64_t Plan() {
    const auto segments = static_cast<int64_t>(args_.segments.size());
    first_task_ = arena_.Array<int64_t>(segments);
    int64_t tasks = 0;
    for (int64_t s = 0; s < segments; ++s) {
      const Segment& segment = args_.segments[static_cast<size_t>(s)];
      first_task_[s] = tasks;
      tasks +=
          key_heads_ * (LastTile(segment, tile_queries_) - FirstTile(segment, tile_queries_) + 1);
      most_blocks_ = std::max(most_blocks_, (segment.key_count() - 1) / args_.shape.block_size + 1);
    }
    return tasks;
  }

  Scratch<T> NewScratch() {
    const int64_t rows = Simd<T>::Pad(group_ * tile_queries_);
    return {.queries = arena_.Array<T>(dim_ * rows),
            .scores = arena_.Array<T>(kPooledTile * rows),
            .maximum = arena_.Array<T>(rows),
            .denominator = arena_.Array<T>(rows),
            .group_scores = arena_.Array<T>(tile_queries_),
            .block_scores = arena_.Array<T>(most_blocks_ * tile_queries_),
            .ranked = arena_.Array<T>(most_blocks_)};
  }

  void RunTask(int64_t task, Scratch<T>& scratch) {
    const auto s = static_cast<size_t>(
        std::upper_bound(first_task_, first_task_ + args_.segments.size(), task) - first_task_ - 1);
    const Segment& segment = args_.segments[s];
    const int64_t local = task - first_task_[s];
    // The costly tiles of a document, its last, come first.
    const QueryTile queries =
        TileAt(segment, LastTile(segment, tile_queries_) - local / key_heads_, tile_queries_);
    const int64_t head_stride = queries.count == 1 ? 1 : Simd<T>::Pad(queries.count);
    const Tile tile = {segment, local % key_heads_, queries, head_stride,
                       Simd<T>::Pad(group_ * head_stride)};
    const int64_t blocks = tile.last_position() / args_.shape.block_size + 1;
    if (blocks > args_.shape.selected_blocks) ScoreBlocks(tile, scratch);
    for (int64_t i = 0; i < queries.count; ++i) {
      int32_t* list =
          args_.blocks.data<int32_t>() +
          ((queries.row + i) * key_heads_ + tile.key_head) * args_.shape.selected_blocks;
      ListBlocks(queries.position + i, scratch.block_scores + i, head_stride, scratch.ranked, list);
    }
  }

  // Blocks [begin, end) that compete by score for the query at `position`.
  BlockRange Candidates(int64_t position) const {
    const int64_t current = position / args_.shape.block_size;
    const int64_t begin = std::min(args_.shape.init_blocks, current + 1);
    return {begin, std::max(begin, current - args_.shape.local_blocks)};
  }

  void ScoreBlocks(const Tile& tile, Scratch<T>& scratch) {
    LoadQueries(tile, scratch);
    NormaliseByCoarseKeys(tile, scratch);
    const BlockRange blocks = Candidates(tile.last_position());
    std::fill(scratch.block_scores + blocks.begin * tile.head_stride,
              scratch.block_scores + blocks.end * tile.head_stride, T{0});
    const Windows windows = FineWindows(args_.shape);
    const int64_t block_size = args_.shape.block_size;
    const int64_t begin = windows.FirstEndingAt(blocks.begin * block_size);
    const int64_t end = std::min(windows.Count(tile.last_position() + 1),
                                 (blocks.end * block_size - 1) / windows.stride + 1);
    for (int64_t first = begin; first < end; first += kPooledTile) {
      const int64_t count = std::min(kPooledTile, end - first);
      MultiplyPooled(tile, args_.fine_keys, windows, {first, first + count}, scratch);
      for (int64_t c = 0; c < count; ++c) {
        SumGroup(tile, windows, first + c, scratch.scores + c * tile.padded_rows, scratch);
        RaiseBlockScores(tile, windows, first + c, blocks, scratch);
      }
    }
  }

  void LoadQueries(const Tile& tile, Scratch<T>& scratch) {
    const T scale = static_cast<T>(args_.scale);
    std::fill_n(scratch.queries, dim_ * tile.padded_rows, T{0});
    for (int64_t i = 0; i < tile.queries.count; ++i) {
      const T* q =
          args_.q.data<T>() + ((tile.queries.row + i) * heads_ + tile.key_head * group_) * dim_;
      for (int64_t g = 0; g < group_; ++g) {
        T* column = scratch.queries + g * tile.head_stride + i;
        for (int64_t d = 0; d < dim_; ++d) column[d * tile.padded_rows] = scale * q[g * dim_ + d];
      }
    }
  }

  // scores[window, row] for a range of pooled keys.
  void MultiplyPooled(const Tile& tile, const TensorView& pooled, const Windows& windows,
                      BlockRange range, Scratch<T>& scratch) {
    const int64_t row = tile.segment.key_begin / windows.stride + range.begin;
    Multiply<T>({pooled.data<T>() + (row * key_heads_ + tile.key_head) * dim_, key_heads_ * dim_,
                 scratch.queries, tile.padded_rows, scratch.scores, tile.padded_rows,
                 range.end - range.begin, tile.padded_rows, dim_});
  }

  // Queries of the tile before a window's last token: they do not see it.
  static int64_t HiddenQueries(const Tile& tile, const Windows& windows, int64_t window) {
    return std::clamp<int64_t>(windows.LastPosition(window) - tile.queries.position, 0,
                               tile.queries.count);
  }

  // Leaves the coarse log-sum-exp of every row in `maximum`; infinity where it sees no coarse key
  // or where it is NaN, so that scores become exp(-infinity) = 0, or NaN where NaN is.
  void NormaliseByCoarseKeys(const Tile& tile, Scratch<T>& scratch) {
    const int64_t rows = tile.padded_rows;
    T* __restrict maximum = scratch.maximum;
    T* __restrict denominator = scratch.denominator;
    std::fill_n(maximum, rows, std::numeric_limits<T>::lowest() / 2);
    std::fill_n(denominator, rows, T{0});
    const Windows windows = CoarseWindows(args_.shape);
    const int64_t end = windows.Count(tile.last_position() + 1);
    for (int64_t first = 0; first < end; first += kPooledTile) {
      const int64_t count = std::min(kPooledTile, end - first);
      MultiplyPooled(tile, args_.coarse_keys, windows, {first, first + count}, scratch);
      for (int64_t c = 0; c < count; ++c) {
        Hide(tile, HiddenQueries(tile, windows, first + c), scratch.scores + c * rows);
      }
      AddExponentials(scratch.scores, count, rows, maximum, denominator);
    }
    for (int64_t row = 0; row < rows; ++row) {
      maximum[row] = denominator[row] > 0 ? maximum[row] + std::log(denominator[row])
                                          : std::numeric_limits<T>::infinity();
    }
  }

  void Hide(const Tile& tile, int64_t hidden, T* line) const {
    if (hidden == 0) return;
    for (int64_t g = 0; g < group_; ++g) {
      std::fill_n(line + g * tile.head_stride, hidden, -std::numeric_limits<T>::infinity());
    }
  }

  static void AddExponentials(const T* scores, int64_t count, int64_t rows, T* __restrict maximum,
                              T* __restrict denominator) {
    // Columns apart, one pass for the maximum and one for the sum, so that a query's result does
    // not depend on its neighbours.
    for (int64_t begin = 0; begin < rows; begin += Simd<T>::kLanes) {
      T before[Simd<T>::kLanes];
      std::copy_n(maximum + begin, Simd<T>::kLanes, before);
      for (int64_t c = 0; c < count; ++c) {
        const T* line = scores + c * rows + begin;
        for (int64_t r = 0; r < Simd<T>::kLanes; ++r) {
          maximum[begin + r] = maximum[begin + r] < line[r] ? line[r] : maximum[begin + r];
        }
      }
      for (int64_t r = 0; r < Simd<T>::kLanes; ++r) {
        denominator[begin + r] *= Exp(before[r] - maximum[begin + r]);
      }
      for (int64_t c = 0; c < count; ++c) {
        const T* line = scores + c * rows + begin;
        for (int64_t r = 0; r < Simd<T>::kLanes; ++r) {
          denominator[begin + r] += Exp(line[r] - maximum[begin + r]);
        }
      }
    }
  }

  // group_scores[i] = sum over heads of exp(score - logsumexp), 0 for queries before the window.
  void SumGroup(const Tile& tile, const Windows& windows, int64_t window, T* line,
                Scratch<T>& scratch) {
    const T* __restrict logsumexp = scratch.maximum;
    T* __restrict sums = scratch.group_scores;
    for (int64_t row = 0; row < tile.padded_rows; ++row)
      line[row] = Exp(line[row] - logsumexp[row]);
    std::fill_n(sums, tile.head_stride, T{0});
    for (int64_t g = 0; g < group_; ++g) {
      const T* head = line + g * tile.head_stride;
      for (int64_t i = 0; i < tile.head_stride; ++i) sums[i] += head[i];
    }
    std::fill_n(sums, HiddenQueries(tile, windows, window), T{0});
  }

  void RaiseBlockScores(const Tile& tile, const Windows& windows, int64_t window, BlockRange blocks,
                        Scratch<T>& scratch) {
    const int64_t block_size = args_.shape.block_size;
    const int64_t first = std::max(blocks.begin, window * windows.stride / block_size);
    const int64_t end = std::min(blocks.end, windows.LastPosition(window) / block_size + 1);
    for (int64_t block = first; block < end; ++block) {
      T* scores = scratch.block_scores + block * tile.head_stride;
      for (int64_t i = 0; i < tile.head_stride; ++i) {
        const T sum = scratch.group_scores[i];  // a NaN is read, not passed over
        const T score = std::isnan(sum) ? std::numeric_limits<T>::infinity() : sum;
        scores[i] = scores[i] < score ? score : scores[i];
      }
    }
  }

  // scores[block * stride] of every candidate.
  void ListBlocks(int64_t position, const T* scores, int64_t stride, T* ranked,
                  int32_t* list) const {
    const int64_t current = position / args_.shape.block_size;
    const BlockRange candidates = Candidates(position);
    int32_t* const end = list + args_.shape.selected_blocks;
    for (int64_t block = 0; block < candidates.begin; ++block)
      *list++ = static_cast<int32_t>(block);
    const int64_t local = current + 1 - candidates.end;
    const int64_t places = end - list - local;
    if (candidates.end - candidates.begin <= places) {
      for (int64_t block = candidates.begin; block < candidates.end; ++block) {
        *list++ = static_cast<int32_t>(block);
      }
    } else {
      list = TakeBest(candidates, places, scores, stride, ranked, list);
    }
    for (int64_t block = candidates.end; block <= current; ++block) {
      *list++ = static_cast<int32_t>(block);
    }
    std::fill(list, end, -1);
  }

  // The `places` best candidates in ascending order, equal scores to the lower index.
  static int32_t* TakeBest(BlockRange candidates, int64_t places, const T* scores, int64_t stride,
                           T* ranked, int32_t* list) {
    if (places == 0) return list;
    const int64_t count = candidates.end - candidates.begin;
    for (int64_t b = 0; b < count; ++b) ranked[b] = scores[(candidates.begin + b) * stride];
    std::nth_element(ranked, ranked + places - 1, ranked + count, std::greater<T>());
    const T cut = ranked[places - 1];
    int64_t ties = places - std::count_if(ranked, ranked + places, [cut](T s) { return s > cut; });
    for (int64_t block = candidates.begin; block < candidates.end; ++block) {
      const T score = scores[block * stride];
      if (score > cut || (score == cut && ties-- > 0)) *list++ = static_cast<int32_t>(block);
    }
    return list;
  }

  const SelectBlocksArgs& args_;
  const int64_t heads_, key_heads_, group_, dim_, tile_queries_;
  Arena& arena_;
  ArenaScope scope_;
  int64_t* first_task_ = nullptr;  // [segments]
  int64_t most_blocks_ = 0;
};

}  // namespace

absl::Status PoolKeys(const ExecutionContext&, const PoolKeysArgs& args) {
  if (args.k.dtype() == DType::kFloat64) {
    Pool<double>(args);
  } else {
    Pool<float>(args);
  }
  return absl::OkStatus();
}

absl::Status SelectBlocks(const ExecutionContext& context, const SelectBlocksArgs& args) {
  if (args.q.dtype() == DType::kFloat64) {
    SelectionPass<double>(context, args).Run();
  } else {
    SelectionPass<float>(context, args).Run();
  }
  return absl::OkStatus();
}

}  // namespace salamander::cpu
