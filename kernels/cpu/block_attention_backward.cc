// Backward of block attention. With P = exp(S - logsumexp), dP = dO V^T and delta = sum(dO * O):
//   dS = P * (dP - delta)     dV += P^T dO     dK += scale * dS^T Q     dQ = scale * sum dS K
// A task owns a strip of keys of one (segment, KV head): it keeps their gradients to itself and
// walks the query tiles from the last to the strip's own. A tile's dQ is the sum over strips in
// ascending order: a task adds its share once the task of the strip before it has passed that
// tile. So scores are recomputed once, and no sum depends on how many threads there are.
#include <algorithm>
#include <atomic>
#include <limits>
#include <thread>

#include <omp.h>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/block_attention.h"
#include "kernels/cpu/small_matrix.h"
#include "kernels/cpu/vector_math.h"

namespace salamander::cpu {
namespace {

// Keys in a strip: its gradients stay in the second-level cache, and short streams still give
// several tasks a head.
constexpr int64_t kStripKeys = 256;

// Query rows as the products need them: along rows and transposed.
template <typename T>
struct RowOperands {
  T* queries;             // [rows, padded D], scaled
  T* queries_transposed;  // [D, rows]
  T* d_out;               // [rows, padded D]
  T* d_out_transposed;    // [D, rows]
  T* logsumexp;           // [rows]
  T* delta;               // [rows]
};

template <typename T>
struct Scratch {
  RowOperands<T> tile;
  RowOperands<T> members;  // of a block, where they are not the whole tile
  T* scores;               // [block, rows]
  T* d_scores;             // [block, rows]
  T* dq;                   // [rows, padded D]
  T* member_dq;            // [rows, padded D]
  T* keys;                 // [strip, padded D]
  T* dk;                   // [strip, padded D]
  T* dv;                   // [strip, padded D]
};

// What a task works on.
struct Strip {
  const Segment& segment;
  int64_t key_head;
  int64_t first_key;  // position in the segment
  int64_t key_count;
  int64_t index;
};

template <typename T>
class BackwardPass {
 public:
  BackwardPass(const ExecutionContext& context, const BlockAttention<T>& attention,
               const BlockAttentionGradients<T>& gradients)
      : attention_(attention),
        gradients_(gradients),
        group_(attention.group()),
        tile_queries_(TileQueries(group_)),
        padded_rows_(Simd<T>::Pad(tile_queries_ * group_)),
        padded_dim_(Simd<T>::Pad(attention.head_dim)),
        strip_keys_(std::max<int64_t>(kStripKeys / attention.block_size, 1) * attention.block_size),
        arena_(*context.arena),
        scope_(arena_) {}

  void Run() {
    const int64_t tasks = Plan();
    const int threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), tasks));
    if (threads == 0) return;
    auto* scratch = arena_.Array<Scratch<T>>(threads);
    for (int thread = 0; thread < threads; ++thread) scratch[thread] = NewScratch();
      // A task waits for tasks before it only, and tasks are handed out in order: no deadlock.
#pragma omp parallel for num_threads(threads) schedule(monotonic : dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) RunTask(task, scratch[omp_get_thread_num()]);
  }

 private:
  // Tasks of a segment: KV heads fastest, so that a strip rarely waits for the one before it.
  int64_t Plan() {
    const auto segments = static_cast<int64_t>(attention_.segments.size());
    first_task_ = arena_.Array<int64_t>(segments);
    int64_t tasks = 0;
    for (int64_t s = 0; s < segments; ++s) {
      first_task_[s] = tasks;
      const int64_t keys = attention_.segments[static_cast<size_t>(s)].key_count();
      tasks += ((keys - 1) / strip_keys_ + 1) * attention_.key_heads;
    }
    passed_tile_ = arena_.Array<int64_t>(tasks);
    std::fill_n(passed_tile_, tasks, std::numeric_limits<int64_t>::max());
    return tasks;
  }

  Scratch<T> NewScratch() {
    const int64_t tile = padded_rows_ * padded_dim_, strip = strip_keys_ * padded_dim_;
    const int64_t scores = attention_.block_size * padded_rows_;
    const auto rows = [&]() -> RowOperands<T> {
      return {arena_.Array<T>(tile), arena_.Array<T>(tile),         arena_.Array<T>(tile),
              arena_.Array<T>(tile), arena_.Array<T>(padded_rows_), arena_.Array<T>(padded_rows_)};
    };
    return {.tile = rows(),
            .members = rows(),
            .scores = arena_.Array<T>(scores),
            .d_scores = arena_.Array<T>(scores),
            .dq = arena_.Array<T>(tile),
            .member_dq = arena_.Array<T>(tile),
            .keys = arena_.Array<T>(strip),
            .dk = arena_.Array<T>(strip),
            .dv = arena_.Array<T>(strip)};
  }

  void RunTask(int64_t task, Scratch<T>& scratch) {
    const auto segments = attention_.segments.size();
    const auto s = static_cast<size_t>(std::upper_bound(first_task_, first_task_ + segments, task) -
                                       first_task_ - 1);
    const Segment& segment = attention_.segments[s];
    const int64_t local = task - first_task_[s], index = local / attention_.key_heads;
    const int64_t first_key = index * strip_keys_;
    const Strip strip = {segment, local % attention_.key_heads, first_key,
                         std::min(strip_keys_, segment.key_count() - first_key), index};
    LoadKeys(strip, scratch);
    std::fill_n(scratch.dk, strip.key_count * padded_dim_, T{0});
    std::fill_n(scratch.dv, strip.key_count * padded_dim_, T{0});
    const int64_t first_tile =
        std::max(FirstTile(segment, tile_queries_), first_key / tile_queries_);
    for (int64_t u = LastTile(segment, tile_queries_); u >= first_tile; --u) {
      const QueryTile tile = TileAt(segment, u, tile_queries_);
      const bool has_share = VisitTile(strip, tile, scratch);
      if (index > 0) AwaitTile(task - attention_.key_heads, u);
      AddQueryGradients(strip, tile, has_share, scratch);
      std::atomic_ref<int64_t>(passed_tile_[task]).store(u, std::memory_order_release);
    }
    AddKeyGradients(strip, scratch);
  }

  void AwaitTile(int64_t task, int64_t tile) {
    const std::atomic_ref<int64_t> passed(passed_tile_[task]);
    while (passed.load(std::memory_order_acquire) > tile) std::this_thread::yield();
  }

  int64_t KeyOffset(const Strip& strip, int64_t key) const {
    return ((strip.segment.key_begin + strip.first_key + key) * attention_.key_heads +
            strip.key_head) *
           attention_.head_dim;
  }

  void LoadKeys(const Strip& strip, Scratch<T>& scratch) {
    for (int64_t key = 0; key < strip.key_count; ++key) {
      CopyTileRow(attention_.k + KeyOffset(strip, key), attention_.head_dim, T{1},
                  scratch.keys + key * padded_dim_, padded_dim_);
    }
  }

  // Adds the tile's share to the strip's dk and dv and leaves the strip's share of the tile's
  // gradients in `dq`; false where the tile reads none of its blocks.
  bool VisitTile(const Strip& strip, const QueryTile& tile, Scratch<T>& scratch) {
    const int64_t first_block = strip.first_key / attention_.block_size;
    const int64_t blocks = (strip.key_count - 1) / attention_.block_size + 1;
    BlockWalk<T> walk(attention_, tile, strip.key_head, {first_block, first_block + blocks});
    bool is_loaded = false;
    while (walk.Next()) {
      if (!is_loaded) {
        LoadTile(strip, tile, scratch);
        std::fill_n(scratch.dq, tile.count * group_ * padded_dim_, T{0});
        is_loaded = true;
      }
      if (walk.is_whole_tile()) {
        VisitBlock(strip, tile, walk, scratch.tile, scratch.dq, scratch);
      } else {
        VisitMembers(strip, tile, walk, scratch);
      }
    }
    return is_loaded;
  }

  void LoadTile(const Strip& strip, const QueryTile& tile, Scratch<T>& scratch) {
    const int64_t dim = attention_.head_dim, rows = tile.count * group_;
    const int64_t padded = Simd<T>::Pad(rows);
    const T scale = static_cast<T>(attention_.scale);
    const RowOperands<T>& own = scratch.tile;
    const TileRows source(attention_, tile, strip.key_head);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t offset = source.Offset(row);
      const T* d_out = gradients_.d_out + offset;
      CopyTileRow(attention_.q + offset, dim, scale, own.queries + row * padded_dim_, padded_dim_);
      CopyTileRow(d_out, dim, T{1}, own.d_out + row * padded_dim_, padded_dim_);
      own.logsumexp[row] = gradients_.logsumexp[source.HeadRow(row)];
      own.delta[row] = Dot(gradients_.out + offset, d_out);
    }
    std::fill(own.logsumexp + rows, own.logsumexp + padded, T{0});
    std::fill(own.delta + rows, own.delta + padded, T{0});
    std::fill_n(own.queries + rows * padded_dim_, (padded - rows) * padded_dim_, T{0});
    std::fill_n(own.d_out + rows * padded_dim_, (padded - rows) * padded_dim_, T{0});
    Transpose(own.queries, padded_dim_, padded, padded_dim_, own.queries_transposed, padded);
    Transpose(own.d_out, padded_dim_, padded, padded_dim_, own.d_out_transposed, padded);
  }

  T Dot(const T* a, const T* b) const {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < attention_.head_dim; ++d) sum += a[d] * b[d];
    return sum;
  }

  // dq [member rows, padded D] is added to.
  void VisitBlock(const Strip& strip, const QueryTile& tile, const BlockWalk<T>& walk,
                  const RowOperands<T>& operands, T* dq, Scratch<T>& scratch) {
    const int64_t dim = attention_.head_dim, stride = attention_.key_heads * dim;
    const int64_t rows = walk.member_count() * group_, padded = Simd<T>::Pad(rows);
    const int64_t first_key = walk.block() * attention_.block_size;
    const int64_t key = first_key - strip.first_key;  // in the strip
    const int64_t keys = std::min(attention_.block_size, strip.key_count - key);
    const int64_t row_offset = key * padded_dim_;
    T* scores = scratch.scores;
    T* d_scores = scratch.d_scores;
    Multiply<T>({scratch.keys + row_offset, padded_dim_, operands.queries_transposed, padded,
                 scores, padded, keys, padded, dim});
    if (first_key + keys - 1 > tile.position + walk.member(0)) {
      HideFutureKeys(walk, tile, first_key, keys, group_, scores, padded);
    }
    Multiply<T>({attention_.v + KeyOffset(strip, key), stride, operands.d_out_transposed, padded,
                 d_scores, padded, keys, padded, dim});
    ScoreGradients(keys, padded, operands, scratch);
    Multiply<T>({scores, padded, operands.d_out, padded_dim_, scratch.dv + row_offset, padded_dim_,
                 keys, padded_dim_, rows, true});
    Multiply<T>({d_scores, padded, operands.queries, padded_dim_, scratch.dk + row_offset,
                 padded_dim_, keys, padded_dim_, rows, true});
    Multiply<T, LeftFactor::kColumnMajor>({d_scores, padded, scratch.keys + row_offset, padded_dim_,
                                           dq, padded_dim_, rows, padded_dim_, keys, true});
  }

  // S becomes P, dP becomes dS.
  static void ScoreGradients(int64_t keys, int64_t padded, const RowOperands<T>& operands,
                             Scratch<T>& scratch) {
    const T* __restrict logsumexp = operands.logsumexp;
    const T* __restrict delta = operands.delta;
    for (int64_t key = 0; key < keys; ++key) {
      T* __restrict scores = scratch.scores + key * padded;
      T* __restrict d_scores = scratch.d_scores + key * padded;
      for (int64_t c = 0; c < padded; ++c) {
        scores[c] = Exp(scores[c] - logsumexp[c]);
        d_scores[c] = scores[c] * (d_scores[c] - delta[c]);
      }
    }
  }

  void VisitMembers(const Strip& strip, const QueryTile& tile, const BlockWalk<T>& walk,
                    Scratch<T>& scratch) {
    const int64_t dim = attention_.head_dim;
    const int64_t tile_padded = Simd<T>::Pad(tile.count * group_);
    const int64_t rows = walk.member_count() * group_, padded = Simd<T>::Pad(rows);
    const RowOperands<T>& own = scratch.tile;
    const RowOperands<T>& members = scratch.members;
    const auto gather = [&](const T* from, int64_t lines, T* to) {
      GatherColumns(walk, group_, from, tile_padded, lines, to, padded);
    };
    gather(own.queries_transposed, dim, members.queries_transposed);
    gather(own.d_out_transposed, dim, members.d_out_transposed);
    gather(own.logsumexp, 1, members.logsumexp);
    gather(own.delta, 1, members.delta);
    const auto tile_row = [&](int64_t row) {
      return (walk.member(row / group_) * group_ + row % group_) * padded_dim_;
    };
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(own.queries + tile_row(row), padded_dim_, members.queries + row * padded_dim_);
      std::copy_n(own.d_out + tile_row(row), padded_dim_, members.d_out + row * padded_dim_);
    }
    std::fill_n(scratch.member_dq, rows * padded_dim_, T{0});
    VisitBlock(strip, tile, walk, members, scratch.member_dq, scratch);
    for (int64_t row = 0; row < rows; ++row) {
      const T* share = scratch.member_dq + row * padded_dim_;
      T* dq = scratch.dq + tile_row(row);
      for (int64_t d = 0; d < padded_dim_; ++d) dq[d] += share[d];
    }
  }

  // The first strip is read by every tile and starts the sum.
  void AddQueryGradients(const Strip& strip, const QueryTile& tile, bool has_share,
                         const Scratch<T>& scratch) {
    if (!has_share && strip.index > 0) return;
    const T scale = static_cast<T>(attention_.scale);
    const TileRows target(attention_, tile, strip.key_head);
    for (int64_t row = 0; row < tile.count * group_; ++row) {
      T* dq = gradients_.dq + target.Offset(row);
      const T* share = scratch.dq + row * padded_dim_;
      for (int64_t d = 0; d < attention_.head_dim; ++d) {
        const T before = strip.index > 0 ? dq[d] : T{0};
        dq[d] = has_share ? before + scale * share[d] : before;
      }
    }
  }

  void AddKeyGradients(const Strip& strip, const Scratch<T>& scratch) {
    for (int64_t key = 0; key < strip.key_count; ++key) {
      const int64_t offset = KeyOffset(strip, key);
      for (int64_t d = 0; d < attention_.head_dim; ++d) {
        gradients_.dk[offset + d] += scratch.dk[key * padded_dim_ + d];
        gradients_.dv[offset + d] += scratch.dv[key * padded_dim_ + d];
      }
    }
  }

  const BlockAttention<T>& attention_;
  const BlockAttentionGradients<T>& gradients_;
  const int64_t group_, tile_queries_, padded_rows_, padded_dim_, strip_keys_;
  Arena& arena_;
  ArenaScope scope_;
  int64_t* first_task_ = nullptr;   // [segments]
  int64_t* passed_tile_ = nullptr;  // [tasks] the last tile a task has added its share to
};

}  // namespace

template <typename T>
void BlockAttentionBackward(const ExecutionContext& context, const BlockAttention<T>& attention,
                            const BlockAttentionGradients<T>& gradients) {
  BackwardPass<T>(context, attention, gradients).Run();
}

template void BlockAttentionBackward(const ExecutionContext&, const BlockAttention<float>&,
                                     const BlockAttentionGradients<float>&);
template void BlockAttentionBackward(const ExecutionContext&, const BlockAttention<double>&,
                                     const BlockAttentionGradients<double>&);

}  // namespace salamander::cpu
