// What the forward and the backward of block attention share: how a segment is cut into query
// tiles, which blocks a tile reads, and moving rows between tensors and tiles.
#ifndef KERNELS_CPU_ATTENTION_TILES_H_
#define KERNELS_CPU_ATTENTION_TILES_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/base/segments.h"
#include "kernels/cpu/block_attention.h"

namespace salamander::cpu {

// Rows of a tile: enough that a block's traffic hides behind its products, few enough that scores
// and queries of a tile stay in a 48 KB first-level cache.
inline constexpr int64_t kQueryTileRows = 64;

// Queries in a tile: a power of two, so that a tile cut at multiples of it lies within one block.
inline int64_t TileQueries(int64_t group) {
  int64_t queries = kQueryTileRows;
  while (queries > 1 && queries * group > kQueryTileRows) queries /= 2;
  return queries;
}

// Tile u of a segment holds the queries at positions [u * TileQueries, (u + 1) * TileQueries).
struct QueryTile {
  int64_t row;       // of the first query in the query tensors
  int64_t position;  // of the first query
  int64_t count;     // queries
};

inline QueryTile TileAt(const Segment& segment, int64_t tile, int64_t tile_queries) {
  const int64_t begin = std::max(segment.first_position, tile * tile_queries);
  const int64_t end = std::min(segment.key_count(), (tile + 1) * tile_queries);
  return {segment.query_begin + begin - segment.first_position, begin, end - begin};
}

inline int64_t FirstTile(const Segment& segment, int64_t tile_queries) {
  return segment.first_position / tile_queries;
}

inline int64_t LastTile(const Segment& segment, int64_t tile_queries) {
  return (segment.key_count() - 1) / tile_queries;
}

struct BlockRange {
  int64_t begin, end;
};

// Steps in ascending order through the blocks of a range that some query of a tile reads, with the
// queries that read each. Blocks after a query's own are no query's.
template <typename T>
class BlockWalk {
 public:
  BlockWalk(const BlockAttention<T>& attention, const QueryTile& tile, int64_t key_head,
            BlockRange range)
      : attention_(attention), tile_(tile), range_(range), block_(range.begin - 1) {
    if (attention.lists == nullptr) {
      member_count_ = tile.count;
      for (int64_t i = 0; i < tile.count; ++i) members_[i] = static_cast<int32_t>(i);
      return;
    }
    for (int64_t i = 0; i < tile.count; ++i) {
      const int32_t* list = attention.lists + ((tile.row + i) * attention.key_heads + key_head) *
                                                  attention.list_length;
      ends_[i] = list + attention.list_length;
      next_[i] = std::partition_point(
          list, ends_[i], [range](int32_t block) { return block >= 0 && block < range.begin; });
    }
  }

  bool Next() {
    if (attention_.lists == nullptr) {
      ++block_;
      return block_ < range_.end && block_ * attention_.block_size < tile_.position + tile_.count;
    }
    block_ = range_.end;
    for (int64_t i = 0; i < tile_.count; ++i) block_ = std::min(block_, Head(i));
    if (block_ == range_.end) return false;
    member_count_ = 0;
    for (int64_t i = 0; i < tile_.count; ++i) {
      if (Head(i) != block_) continue;
      ++next_[i];
      members_[member_count_++] = static_cast<int32_t>(i);
    }
    return true;
  }

  int64_t block() const { return block_; }
  int64_t member_count() const { return member_count_; }
  int32_t member(int64_t index) const { return members_[index]; }  // ascending query indices
  bool is_whole_tile() const { return member_count_ == tile_.count; }

 private:
  int64_t Head(int64_t i) const {
    if (next_[i] == ends_[i] || *next_[i] < 0) return range_.end;
    const int64_t block = *next_[i];
    const bool in_past = block * attention_.block_size <= tile_.position + i;
    return in_past ? std::min(block, range_.end) : range_.end;
  }

  const BlockAttention<T>& attention_;
  const QueryTile tile_;
  const BlockRange range_;
  int64_t block_;
  int64_t member_count_ = 0;
  int32_t members_[kQueryTileRows];
  const int32_t* next_[kQueryTileRows];
  const int32_t* ends_[kQueryTileRows];
};

// Sets to minus infinity the scores [keys, members * G] of keys that lie after the query.
template <typename T>
void HideFutureKeys(const BlockWalk<T>& walk, const QueryTile& tile, int64_t first_key,
                    int64_t keys, int64_t group, T* scores, int64_t stride) {
  int64_t hidden = 0;  // members before the key: a growing run, as both ascend
  for (int64_t key = 0; key < keys; ++key) {
    while (hidden < walk.member_count() && tile.position + walk.member(hidden) < first_key + key) {
      ++hidden;
    }
    std::fill_n(scores + key * stride, hidden * group, -std::numeric_limits<T>::infinity());
  }
}

// Where the rows of a tile lie in a [T, H, D] tensor.
struct TileRows {
  int64_t first, query_stride, head_dim, group;

  template <typename T>
  TileRows(const BlockAttention<T>& attention, const QueryTile& tile, int64_t key_head)
      : first((tile.row * attention.heads + key_head * attention.group()) * attention.head_dim),
        query_stride(attention.heads * attention.head_dim),
        head_dim(attention.head_dim),
        group(attention.group()) {}

  int64_t Offset(int64_t row) const {
    return first + row / group * query_stride + row % group * head_dim;
  }
  int64_t HeadRow(int64_t row) const { return Offset(row) / head_dim; }  // in a [T, H] tensor
};

// tile[row, d] = factor * source[row, d] for d < D, 0 in the padding up to `stride`.
template <typename T>
void CopyTileRow(const T* source, int64_t head_dim, T factor, T* row, int64_t stride) {
  for (int64_t d = 0; d < head_dim; ++d) row[d] = factor * source[d];
  for (int64_t d = head_dim; d < stride; ++d) row[d] = 0;
}

// Gathers the columns of the members, G to each, from [lines, tile rows] to [lines, member rows],
// with zeros up to the stride.
template <typename T>
void GatherColumns(const BlockWalk<T>& walk, int64_t group, const T* tile, int64_t tile_stride,
                   int64_t lines, T* gathered, int64_t stride) {
  for (int64_t line = 0; line < lines; ++line) {
    T* target = gathered + line * stride;
    for (int64_t m = 0; m < walk.member_count(); ++m) {
      const T* source = tile + line * tile_stride + walk.member(m) * group;
      for (int64_t g = 0; g < group; ++g) *target++ = source[g];
    }
    std::fill(target, gathered + (line + 1) * stride, T{0});
  }
}

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_ATTENTION_TILES_H_
