// What the kernels of block attention share: arguments, how a segment is cut into row tiles, which
// pieces of keys a tile walks through, and loading tiles.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_TILES_CUH_
#define KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_TILES_CUH_

#include <algorithm>
#include <climits>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/block_attention_mma.cuh"
#include "kernels/cuda/block_list.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {

constexpr int kTileRows = 64;   // four warps of 16 rows
constexpr int kPieceKeys = 64;  // keys that meet a tile at once
constexpr int kTileThreads = kTileRows / 16 * kWarp;

// A segment and its place among the work items of a launch. An item is (segment, index in it).
struct SegmentPlan {
  int64_t query_begin, query_count, key_begin, first_position;
  int64_t first_item = 0;
  // Forward: parts that the keys of its lone tile are cut into, keys (or list entries) of a part,
  // and the first row that it stores of its parts [KV heads, parts, rows of the tile], -1 where it
  // stores none.
  int32_t parts = 1;
  int32_t part_size = 0;
  int64_t first_part_row = -1;
  // Backward: of the queries and blocks of all segments in order.
  int64_t first_query = 0, first_block = 0;

  __device__ int64_t key_count() const { return first_position + query_count; }
};

struct AttentionArgs {
  const BFloat16* q;     // [T, H, D]
  const BFloat16* k;     // [Tk, Hkv, D]
  const BFloat16* v;     // [Tk, Hkv, D]
  const int32_t* lists;  // [T, Hkv, list_length]; null: every block
  const SegmentPlan* segments;
  int segment_count;
  int list_length, block_size;
  int heads, key_heads, group, head_dim;
  bool is_aligned;  // rows of every tensor start at multiples of 16 bytes
  float scale;
};

// The segment whose work items the item is one of.
__device__ inline SegmentPlan SegmentOfItem(const SegmentPlan* segments, int count, int64_t item) {
  return EntryOf(segments, count, item, &SegmentPlan::first_item);
}

// Rows [first, first + count) of a (segment, KV head), tile `tile` of those of `rows` rows: row r
// of the segment is query r / G with head r % G.
struct RowTile {
  int key_head;
  int64_t first;
  int count;
  int first_query, queries;  // in the segment
  int64_t last_position;     // of the last query

  __device__ RowTile(const AttentionArgs& args, const SegmentPlan& segment, int head, int64_t tile,
                     int rows = kTileRows)
      : key_head(head), first(tile * rows) {
    const int64_t left = segment.query_count * args.group - first;
    count = left < rows ? static_cast<int>(left) : rows;
    first_query = static_cast<int>(first / args.group);
    queries = static_cast<int>((first + count - 1) / args.group) - first_query + 1;
    last_position = segment.first_position + first_query + queries - 1;
  }

  __device__ int Query(const AttentionArgs& args, int row) const {
    return static_cast<int>((first + row) / args.group);
  }
  // Of row `row` of the tile in [T, H].
  __device__ int64_t Index(const AttentionArgs& args, const SegmentPlan& segment, int row) const {
    const int64_t query = (first + row) / args.group;
    const int64_t member = first + row - query * args.group;
    return (segment.query_begin + query) * args.heads +
           static_cast<int64_t>(key_head) * args.group + member;
  }
};

// Fills the 64 rows of `tile`, by all threads. row_offset(row) is the row's place in `source`, or
// -1 for a row of zeros. Where rows start at multiples of 16 bytes the copies are asynchronous.
template <int kD, typename RowOffset>
__device__ void FillTile(const AttentionArgs& args, const BFloat16* source,
                         const SharedTile<kD>& tile, const RowOffset& row_offset) {
  constexpr int kChunks = SharedTile<kD>::kChunks;
  constexpr int kRowStep = kTileThreads / kChunks;  // keeps the permutation of the chunks
  static_assert(kRowStep % 8 == 0);
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int first_row = static_cast<int>(threadIdx.x) / kChunks;
  if (!args.is_aligned) {
    for (int row = first_row; row < kTileRows; row += kRowStep) {
      const int64_t offset = row_offset(row);
      tile.FillByElement(row, chunk, offset < 0 ? nullptr : source + offset, args.head_dim);
    }
    return;
  }
  const bool is_column = chunk * kLanes < args.head_dim;
  const uint32_t address = tile.Address(first_row, chunk);
#pragma unroll
  for (int i = 0; i < kTileRows / kRowStep; ++i) {
    const int64_t offset = row_offset(first_row + i * kRowStep);
    const bool is_read = is_column && offset >= 0;
    CopyAsync(address + i * kRowStep * kD * 2, source + (is_read ? offset + chunk * kLanes : 0),
              is_read);
  }
}

// Fills `tile` with the rows of `source` [T, H, D] that a row tile names.
template <int kD, typename Rows>
__device__ void LoadRows(const AttentionArgs& args, const SegmentPlan& segment, const Rows& rows,
                         const BFloat16* source, const SharedTile<kD>& tile) {
  FillTile(args, source, tile, [&](int row) {
    return row < rows.count ? rows.Index(args, segment, row) * args.head_dim : int64_t{-1};
  });
}

// Fills `tile` with `count` keys or values of one KV head from key row `first`, then zeros.
template <int kD>
__device__ void LoadKeys(const AttentionArgs& args, int key_head, int64_t first, int count,
                         const BFloat16* source, const SharedTile<kD>& tile) {
  const int stride = args.key_heads * args.head_dim;
  const BFloat16* const base =
      source + first * stride + static_cast<int64_t>(key_head) * args.head_dim;
  FillTile(args, base, tile,
           [&](int row) { return row < count ? static_cast<int64_t>(row) * stride : int64_t{-1}; });
}

// Keys [begin, begin + count) of the segment, and which of the tile's queries read them.
struct Piece {
  int begin, count;
  uint64_t readers;
};

// Steps through the pieces that some query of a tile reads, in ascending order. Every warp keeps
// the same state: lane l follows the lists of queries l and l + 32 of the tile.
class BlockWalk {
 public:
  // Keys, or list entries where there are lists, of part `part`.
  __device__ BlockWalk(const AttentionArgs& args, const SegmentPlan& segment, const RowTile& tile,
                       int part)
      : block_size_(args.block_size),
        has_lists_(args.lists != nullptr),
        end_(static_cast<int>(tile.last_position + 1)) {
    if (!has_lists_) {
      if (segment.parts > 1) {
        next_ = part * segment.part_size;
        end_ = min(end_, next_ + segment.part_size);
      }
      return;
    }
    const int begin = segment.parts > 1 ? part * segment.part_size : 0;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = lane + i * kWarp;
      const bool is_followed = query < tile.queries;
      const int64_t row = segment.query_begin + tile.first_query + (is_followed ? query : 0);
      list_[i] = args.lists + (row * args.key_heads + tile.key_head) * args.list_length + begin;
      left_[i] = is_followed ? args.list_length - begin : 0;
      if (segment.parts > 1) left_[i] = min(left_[i], segment.part_size);
      Advance(i);
    }
  }

  __device__ bool Next(Piece& piece) {
    if (!has_lists_) {
      if (next_ >= end_) return false;
      piece = {next_, min(kPieceKeys, end_ - next_), ~uint64_t{0}};
      next_ += kPieceKeys;
      return true;
    }
    if (next_ >= block_end_) {
      const int block = __reduce_min_sync(kFullMask, min(front_[0], front_[1]));
      const int64_t begin = static_cast<int64_t>(block) * block_size_;
      if (begin >= end_) return false;
      const bool first = front_[0] == block, second = front_[1] == block;
      readers_ = __ballot_sync(kFullMask, first) |
                 static_cast<uint64_t>(__ballot_sync(kFullMask, second)) << kWarp;
      if (first) Advance(0);
      if (second) Advance(1);
      next_ = static_cast<int>(begin);
      block_end_ = static_cast<int>(min(begin + block_size_, static_cast<int64_t>(end_)));
    }
    piece = {next_, min(kPieceKeys, block_end_ - next_), readers_};
    next_ += kPieceKeys;
    return true;
  }

 private:
  __device__ void Advance(int i) {
    front_[i] = INT_MAX;
    if (left_[i] == 0) return;
    const int block = *list_[i]++;
    left_[i] = block < 0 ? 0 : left_[i] - 1;
    if (block >= 0) front_[i] = block;
  }

  int block_size_;
  bool has_lists_;
  int next_ = 0, end_;  // keys
  int block_end_ = 0;   // of the block that pieces are cut from
  uint64_t readers_ = 0;
  const int32_t* list_[2];
  int left_[2], front_[2];
};

// Of the keys of a piece, those that the tile's row reads are its first ReadKeys().
__device__ inline int ReadKeys(const Piece& piece, int query_of_tile, int64_t position) {
  if ((piece.readers >> query_of_tile & 1) == 0) return 0;
  const int64_t seen = position + 1 - piece.begin;
  return seen < 0 ? 0 : static_cast<int>(min(seen, static_cast<int64_t>(piece.count)));
}

// Stores a thread's columns of one of its two rows, `factor` times the accumulators, to the row in
// global memory.
template <int kD>
__device__ void StoreRow(const float (&d)[kD / 8][4], int half, float factor,
                         const AttentionArgs& args, BFloat16* row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    const int column = i * 8 + lane % 4 * 2;
    if (column >= args.head_dim) continue;
    const float low = factor * d[i][2 * half], high = factor * d[i][2 * half + 1];
    if (args.is_aligned) {
      *reinterpret_cast<uint32_t*>(row + column) = PackPair(low, high);
    } else {
      row[column] = __float2bfloat16(low);
      if (column + 1 < args.head_dim) row[column + 1] = __float2bfloat16(high);
    }
  }
}

constexpr int64_t kWidestHead = 128;

// Calls with the columns of the tiles that hold `head_dim`: 32, 64 or 128. Those beyond are zeros.
template <typename Function>
absl::Status ForTileColumns(int64_t head_dim, const Function& function) {
  if (head_dim <= 32) return function.template operator()<32>();
  if (head_dim <= 64) return function.template operator()<64>();
  return function.template operator()<kWidestHead>();
}

inline absl::Status CheckHeadDim(const char* op, int64_t head_dim) {
  if (head_dim <= kWidestHead) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(op, ": head_dim ", head_dim,
                                               " on CUDA, supported are 1 to ", kWidestHead,
                                               "; use smaller heads or device: cpu"));
}

// Segments and their count are left out.
inline AttentionArgs MakeAttentionArgs(const BlockAttention& attention) {
  AttentionArgs args = {};
  args.q = BFloat16Data(attention.q);
  args.k = BFloat16Data(attention.k);
  args.v = BFloat16Data(attention.v);
  args.heads = static_cast<int>(attention.q.dim(1));
  args.key_heads = static_cast<int>(attention.k.dim(1));
  args.group = args.heads / args.key_heads;
  args.head_dim = static_cast<int>(attention.q.dim(2));
  args.is_aligned = args.head_dim % kLanes == 0 && AreAligned({args.q, args.k, args.v});
  args.scale = static_cast<float>(attention.scale);
  // A block longer than every segment is cut to the longest.
  int64_t longest = 1;
  for (const Segment& segment : attention.segments) {
    longest = std::max(longest, segment.key_count());
  }
  args.block_size = static_cast<int>(std::min(attention.block_size, longest));
  if (!attention.blocks.empty()) {
    args.lists = attention.blocks.data<int32_t>();
    args.list_length = static_cast<int>(attention.blocks.dim(2));
  }
  return args;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_TILES_CUH_
