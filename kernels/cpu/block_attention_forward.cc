// Forward of block attention: online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867) over
// the blocks of a query tile. Work items are (segment, KV head, query tile); a tile that is alone
// in its segment and reaches far back (decoding) is cut along the keys as well, by a rule of shapes
// alone, and its parts are merged in order.
#include <algorithm>
#include <cmath>

#include <omp.h>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/block_attention.h"
#include "kernels/cpu/small_matrix.h"
#include "kernels/cpu/vector_math.h"

namespace salamander::cpu {
namespace {

// Blocks in one part of a tile that is cut along the keys.
constexpr int64_t kPartBlocks = 64;

struct SegmentPlan {
  int64_t first_item;  // items: parts fastest, then tiles, then KV heads
  int64_t tiles, parts;
  int64_t first_part;  // of its stored parts; only where parts > 1
};

// The running softmax of a tile's rows.
template <typename T>
struct RowState {
  T* maximum;      // [rows]
  T* denominator;  // [rows], relative to the maximum
  T* sums;         // [rows, padded D]
};

template <typename T>
struct Scratch {
  RowState<T> state;
  T* queries;     // [D, rows], scaled
  T* scores;      // [block, rows]
  T* values;      // [block, padded D]
  T* correction;  // [rows]
  // The same for the members of a block, where they are not the whole tile.
  T* member_queries;
  T* member_maximum;
  T* member_denominator;
  T* member_sums;
};

template <typename T>
class ForwardPass {
 public:
  ForwardPass(const ExecutionContext& context, const BlockAttention<T>& attention, T* out,
              T* logsumexp)
      : attention_(attention),
        group_(attention.group()),
        tile_queries_(TileQueries(group_)),
        padded_rows_(Simd<T>::Pad(tile_queries_ * group_)),
        padded_dim_(Simd<T>::Pad(attention.head_dim)),
        out_(out),
        logsumexp_(logsumexp),
        arena_(*context.arena),
        scope_(arena_) {}

  void Run() {
    const int64_t items = Plan();
    const int threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), items));
    if (threads == 0) return;
    auto* scratch = arena_.Array<Scratch<T>>(threads);
    for (int thread = 0; thread < threads; ++thread) scratch[thread] = NewScratch();
    const auto segments = static_cast<int64_t>(attention_.segments.size());
#pragma omp parallel num_threads(threads)
    {
      Scratch<T>& own = scratch[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 1)
      for (int64_t item = 0; item < items; ++item) RunItem(item, own);
        // Parts of decoding segments.
#pragma omp for schedule(dynamic, 1) collapse(2)
      for (int64_t segment = 0; segment < segments; ++segment) {
        for (int64_t key_head = 0; key_head < attention_.key_heads; ++key_head) {
          if (plans_[segment].parts > 1) MergeParts(segment, key_head, own);
        }
      }
    }
  }

 private:
  int64_t Plan() {
    plans_ = arena_.Array<SegmentPlan>(static_cast<int64_t>(attention_.segments.size()));
    int64_t items = 0, stored_parts = 0;
    for (size_t s = 0; s < attention_.segments.size(); ++s) {
      const Segment& segment = attention_.segments[s];
      const int64_t tiles =
          LastTile(segment, tile_queries_) - FirstTile(segment, tile_queries_) + 1;
      const int64_t blocks = (segment.key_count() - 1) / attention_.block_size + 1;
      const bool is_cut = tiles == 1 && attention_.lists == nullptr;
      const int64_t parts = is_cut ? (blocks - 1) / kPartBlocks + 1 : 1;
      plans_[s] = {items, tiles, parts, stored_parts};
      items += attention_.key_heads * tiles * parts;
      if (parts > 1) stored_parts += attention_.key_heads * parts;
    }
    parts_.maximum = arena_.Array<T>(stored_parts * padded_rows_);
    parts_.denominator = arena_.Array<T>(stored_parts * padded_rows_);
    parts_.sums = arena_.Array<T>(stored_parts * padded_rows_ * padded_dim_);
    return items;
  }

  RowState<T> StoredPart(int64_t part) const {
    return {parts_.maximum + part * padded_rows_, parts_.denominator + part * padded_rows_,
            parts_.sums + part * padded_rows_ * padded_dim_};
  }

  Scratch<T> NewScratch() {
    const int64_t rows = padded_rows_, dim = padded_dim_, block = attention_.block_size;
    return {.state = {arena_.Array<T>(rows), arena_.Array<T>(rows), arena_.Array<T>(rows * dim)},
            .queries = arena_.Array<T>(dim * rows),
            .scores = arena_.Array<T>(block * rows),
            .values = arena_.Array<T>(block * dim),
            .correction = arena_.Array<T>(rows),
            .member_queries = arena_.Array<T>(dim * rows),
            .member_maximum = arena_.Array<T>(rows),
            .member_denominator = arena_.Array<T>(rows),
            .member_sums = arena_.Array<T>(rows * dim)};
  }

  void RunItem(int64_t item, Scratch<T>& scratch) {
    const auto plan_end = plans_ + attention_.segments.size();
    const SegmentPlan& plan =
        *(std::upper_bound(plans_, plan_end, item,
                           [](int64_t i, const SegmentPlan& p) { return i < p.first_item; }) -
          1);
    const Segment& segment = attention_.segments[static_cast<size_t>(&plan - plans_)];
    const int64_t local = item - plan.first_item;
    const int64_t part = local % plan.parts;
    const int64_t tile_index = local / plan.parts % plan.tiles;
    const int64_t key_head = local / plan.parts / plan.tiles;
    // The costly tiles of a document, its last, come first.
    const QueryTile tile =
        TileAt(segment, LastTile(segment, tile_queries_) - tile_index, tile_queries_);

    BlockRange range = {0, (tile.position + tile.count - 1) / attention_.block_size + 1};
    RowState<T> state = scratch.state;
    if (plan.parts > 1) {
      range = {part * kPartBlocks, std::min(range.end, (part + 1) * kPartBlocks)};
      state = StoredPart(plan.first_part + key_head * plan.parts + part);
    }
    LoadQueries(tile, key_head, scratch);
    Attend(segment, tile, key_head, range, state, scratch);
    if (plan.parts == 1) Store(tile, key_head, state);
  }

  void LoadQueries(const QueryTile& tile, int64_t key_head, Scratch<T>& scratch) {
    const TileRows source(attention_, tile, key_head);
    const int64_t rows = tile.count * group_, padded = Simd<T>::Pad(rows);
    const T scale = static_cast<T>(attention_.scale);
    // The sums are not in use yet: they lend their room.
    T* packed = scratch.state.sums;
    for (int64_t row = 0; row < rows; ++row) {
      CopyTileRow(attention_.q + source.Offset(row), attention_.head_dim, scale,
                  packed + row * padded_dim_, padded_dim_);
    }
    std::fill_n(packed + rows * padded_dim_, (padded - rows) * padded_dim_, T{0});
    Transpose(packed, padded_dim_, padded, padded_dim_, scratch.queries, padded);
  }

  void Attend(const Segment& segment, const QueryTile& tile, int64_t key_head, BlockRange range,
              const RowState<T>& state, Scratch<T>& scratch) {
    const int64_t padded = Simd<T>::Pad(tile.count * group_);
    // Finite, so that a row that has seen no key yet gives exp(-infinity - maximum) = 0, not NaN.
    std::fill_n(state.maximum, padded, std::numeric_limits<T>::lowest() / 2);
    std::fill_n(state.denominator, padded, T{0});
    std::fill_n(state.sums, padded * padded_dim_, T{0});
    BlockWalk<T> walk(attention_, tile, key_head, range);
    while (walk.Next()) {
      if (walk.is_whole_tile()) {
        AttendBlock(segment, tile, key_head, walk, scratch.queries,
                    {state.maximum, state.denominator, nullptr}, scratch);
        AddToWholeTile(tile, BlockKeys(segment, walk.block()), state, scratch);
      } else {
        AttendMembers(segment, tile, key_head, walk, state, scratch);
      }
    }
  }

  int64_t BlockKeys(const Segment& segment, int64_t block) const {
    return std::min(attention_.block_size, segment.key_count() - block * attention_.block_size);
  }

  // Leaves exp(score - maximum) of the members' rows in `scores` and the block's values in
  // `values`; updates maximum and denominator, and says in `correction` how the old sums shrink.
  void AttendBlock(const Segment& segment, const QueryTile& tile, int64_t key_head,
                   const BlockWalk<T>& walk, const T* queries, const RowState<T>& state,
                   Scratch<T>& scratch) {
    const int64_t dim = attention_.head_dim, stride = attention_.key_heads * dim;
    const int64_t padded = Simd<T>::Pad(walk.member_count() * group_);
    const int64_t first_key = walk.block() * attention_.block_size;
    const int64_t keys = BlockKeys(segment, walk.block());
    const int64_t offset = (segment.key_begin + first_key) * stride + key_head * dim;
    Multiply<T>({attention_.k + offset, stride, queries, padded, scratch.scores, padded, keys,
                 padded, dim});
    if (first_key + keys - 1 > tile.position + walk.member(0)) {
      HideFutureKeys(walk, tile, first_key, keys, group_, scratch.scores, padded);
    }
    UpdateSoftmax(keys, padded, state, scratch);
    for (int64_t key = 0; key < keys; ++key) {
      CopyTileRow(attention_.v + offset + key * stride, dim, T{1},
                  scratch.values + key * padded_dim_, padded_dim_);
    }
  }

  static void UpdateSoftmax(int64_t keys, int64_t padded, const RowState<T>& state,
                            Scratch<T>& scratch) {
    T* __restrict maximum = state.maximum;
    T* __restrict denominator = state.denominator;
    T* __restrict correction = scratch.correction;
    for (int64_t c = 0; c < padded; ++c) correction[c] = maximum[c];
    for (int64_t key = 0; key < keys; ++key) {
      const T* __restrict line = scratch.scores + key * padded;
      for (int64_t c = 0; c < padded; ++c) {
        maximum[c] = maximum[c] < line[c] ? line[c] : maximum[c];
      }
    }
    for (int64_t c = 0; c < padded; ++c) {
      correction[c] = Exp(correction[c] - maximum[c]);
      denominator[c] *= correction[c];
    }
    for (int64_t key = 0; key < keys; ++key) {
      T* __restrict line = scratch.scores + key * padded;
      for (int64_t c = 0; c < padded; ++c) {
        line[c] = Exp(line[c] - maximum[c]);
        denominator[c] += line[c];
      }
    }
  }

  void AddToWholeTile(const QueryTile& tile, int64_t keys, const RowState<T>& state,
                      Scratch<T>& scratch) {
    const int64_t rows = tile.count * group_;
    for (int64_t row = 0; row < rows; ++row) {
      const T correction = scratch.correction[row];
      if (correction == T{1}) continue;
      T* sums = state.sums + row * padded_dim_;
      for (int64_t d = 0; d < padded_dim_; ++d) sums[d] *= correction;
    }
    Multiply<T, LeftFactor::kColumnMajor>({scratch.scores, Simd<T>::Pad(rows), scratch.values,
                                           padded_dim_, state.sums, padded_dim_, rows, padded_dim_,
                                           keys, true});
  }

  void AttendMembers(const Segment& segment, const QueryTile& tile, int64_t key_head,
                     const BlockWalk<T>& walk, const RowState<T>& state, Scratch<T>& scratch) {
    const int64_t tile_padded = Simd<T>::Pad(tile.count * group_);
    const int64_t rows = walk.member_count() * group_, padded = Simd<T>::Pad(rows);
    const RowState<T> members = {scratch.member_maximum, scratch.member_denominator,
                                 scratch.member_sums};
    GatherColumns(walk, group_, scratch.queries, tile_padded, attention_.head_dim,
                  scratch.member_queries, padded);
    GatherColumns(walk, group_, state.maximum, tile_padded, 1, members.maximum, padded);
    GatherColumns(walk, group_, state.denominator, tile_padded, 1, members.denominator, padded);
    AttendBlock(segment, tile, key_head, walk, scratch.member_queries, members, scratch);
    Multiply<T, LeftFactor::kColumnMajor>({scratch.scores, padded, scratch.values, padded_dim_,
                                           members.sums, padded_dim_, rows, padded_dim_,
                                           BlockKeys(segment, walk.block())});
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t target = walk.member(row / group_) * group_ + row % group_;
      state.maximum[target] = members.maximum[row];
      state.denominator[target] = members.denominator[row];
      const T* added = members.sums + row * padded_dim_;
      T* sums = state.sums + target * padded_dim_;
      for (int64_t d = 0; d < padded_dim_; ++d) {
        sums[d] = sums[d] * scratch.correction[row] + added[d];
      }
    }
  }

  void MergeParts(int64_t segment_index, int64_t key_head, Scratch<T>& scratch) {
    const Segment& segment = attention_.segments[static_cast<size_t>(segment_index)];
    const SegmentPlan& plan = plans_[segment_index];
    const QueryTile tile = TileAt(segment, LastTile(segment, tile_queries_), tile_queries_);
    const int64_t first = plan.first_part + key_head * plan.parts;
    const RowState<T>& merged = scratch.state;
    for (int64_t row = 0; row < tile.count * group_; ++row) {
      T maximum = std::numeric_limits<T>::lowest() / 2;
      for (int64_t part = 0; part < plan.parts; ++part) {
        maximum = std::max(maximum, StoredPart(first + part).maximum[row]);
      }
      merged.maximum[row] = maximum;
      merged.denominator[row] = 0;
      T* sums = merged.sums + row * padded_dim_;
      std::fill_n(sums, padded_dim_, T{0});
      for (int64_t part = 0; part < plan.parts; ++part) {
        const RowState<T> stored = StoredPart(first + part);
        const T weight = Exp(stored.maximum[row] - maximum);
        merged.denominator[row] += weight * stored.denominator[row];
        const T* added = stored.sums + row * padded_dim_;
        for (int64_t d = 0; d < padded_dim_; ++d) sums[d] += weight * added[d];
      }
    }
    Store(tile, key_head, merged);
  }

  void Store(const QueryTile& tile, int64_t key_head, const RowState<T>& state) {
    const TileRows target(attention_, tile, key_head);
    for (int64_t row = 0; row < tile.count * group_; ++row) {
      T* out = out_ + target.Offset(row);
      const T* sums = state.sums + row * padded_dim_;
      const T inverse = T{1} / state.denominator[row];
      for (int64_t d = 0; d < attention_.head_dim; ++d) out[d] = sums[d] * inverse;
      if (logsumexp_ == nullptr) continue;
      logsumexp_[target.HeadRow(row)] = state.maximum[row] + std::log(state.denominator[row]);
    }
  }

  const BlockAttention<T>& attention_;
  const int64_t group_, tile_queries_, padded_rows_, padded_dim_;
  T* const out_;
  T* const logsumexp_;
  Arena& arena_;
  ArenaScope scope_;
  SegmentPlan* plans_ = nullptr;
  RowState<T> parts_ = {};
};

}  // namespace

template <typename T>
void BlockAttentionForward(const ExecutionContext& context, const BlockAttention<T>& attention,
                           T* out, T* logsumexp) {
  ForwardPass<T>(context, attention, out, logsumexp).Run();
}

template void BlockAttentionForward(const ExecutionContext&, const BlockAttention<float>&, float*,
                                    float*);
template void BlockAttentionForward(const ExecutionContext&, const BlockAttention<double>&, double*,
                                    double*);

}  // namespace salamander::cpu
