// How the gradients of keys and values on Hopper (block_attention_backward_keys_hopper.cu) are cut
// into items: chunks of queries, and in each the pieces of 64 keys that the chunk's queries may
// read.
#ifndef KERNELS_CUDA_ATTENTION_KEY_ITEMS_HOPPER_CUH_
#define KERNELS_CUDA_ATTENTION_KEY_ITEMS_HOPPER_CUH_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"

namespace salamander::cuda {

constexpr int kLeastGroup = 8;  // heads of a KV head; others are its multiples that divide 64
constexpr int64_t kMostQueries = 2048, kLeastQueries = 512;  // of a chunk
// Queries of a segment, and the blocks that lie before the end of them.
struct KeyChunk {
  int64_t query_begin, key_begin, first_position, key_count;  // the segment's
  int64_t first_block, segment_blocks, first_cell;            // the segment's
  int64_t first_query, queries;                               // of the segment
  int64_t blocks;
  int64_t first_item;  // of (KV head, block, piece)
};

struct KeysArgs {
  BackwardArgs backward;
  const KeyChunk* chunks;
  int chunk_count;
  int64_t blocks;   // of all segments
  int pieces;       // of a block
  int tensor_rows;  // T * H
  int* next_item;   // blocks of threads take the items in the order in which they begin
  int* added;       // [Hkv, blocks, pieces] readers whose share is in the sums
  float* sums;      // [Hkv, blocks, pieces] of kSumFloats
};

// 64 keys of a KV head.
struct KeyPiece {
  int key_head;
  int64_t block, piece;
  int begin, count;  // positions

  __device__ KeyPiece(const KeysArgs& args, const KeyChunk& chunk, int64_t item) {
    // Every query reads block 0, the blocks just before the chunk's end are read most.
    const int64_t first_blocks = int64_t{args.backward.attention.key_heads} * args.pieces;
    if (item < first_blocks) {
      key_head = static_cast<int>(item / args.pieces);
      block = 0;
    } else {
      item -= first_blocks;
      const int64_t others = (chunk.blocks - 1) * args.pieces;
      key_head = static_cast<int>(item / others);
      block = chunk.blocks - 1 - item % others / args.pieces;
    }
    piece = item % args.pieces;
    const int64_t block_size = args.backward.attention.block_size;
    const int64_t first = block * block_size + piece * kPieceKeys;
    const int64_t left = min(chunk.key_count - first, int64_t{kPieceKeys});
    begin = static_cast<int>(first);
    count = static_cast<int>(max(left, int64_t{0}));
  }
};

// The queries of a chunk that read a piece.
struct Readers {
  const int32_t* list;  // null: the queries from `first` on
  int first, count;
  int before, all;  // readers in the chunks before, and in all

  __device__ Readers(const KeysArgs& args, const KeyChunk& chunk, const KeyPiece& keys) {
    const int64_t end_query = chunk.first_query + chunk.queries;
    const int64_t query_count = chunk.key_count - chunk.first_position;
    int64_t end;
    if (args.backward.attention.lists == nullptr) {
      const int64_t least = max(keys.begin - chunk.first_position, int64_t{0});
      list = nullptr;
      first = static_cast<int>(max(least, chunk.first_query));
      before = first - static_cast<int>(least);
      all = static_cast<int>(query_count - least);
      end = end_query - least;
    } else {
      const BlockReaders& readers = args.backward.readers;
      const int64_t index = keys.key_head * readers.blocks + chunk.first_block + keys.block;
      const int64_t begin = readers.begins[index];
      const int32_t* const cells =
          readers.before + keys.key_head * readers.cells + chunk.first_cell + keys.block;
      const auto before_query = [&](int64_t query) {
        return cells[query / kListChunk * chunk.segment_blocks];
      };
      first = 0;
      before = before_query(chunk.first_query);
      all = static_cast<int>(readers.begins[index + 1] - begin);
      end = end_query == query_count ? all : before_query(end_query);
      list = readers.queries + begin + before;
    }
    count = max(static_cast<int>(end) - before, 0);
  }
};

// What a block of threads works on: in shared memory, since it is used before and after the loop.
struct KeyItem {
  const KeyChunk* chunk;
  KeyPiece keys;
  Readers readers;
  int first_position;
  int first_row;  // in [T, H]: the segment's first query, the KV head's first head
};

// How many queries come into a chunk: as many as the L2 cache holds the rows of, or a 32nd of all,
// so that most chunks hold some dozens of the readers of most blocks; and ever fewer towards the
// end, so that the last blocks of threads are soon done. Multiples of kListChunk.
struct ChunkRule {
  int64_t most, least;

  explicit ChunkRule(int64_t all_queries)
      : most(std::max(kMostQueries, Rounded(all_queries / 32))),
        least(std::max(kLeastQueries, Rounded(all_queries / 128))) {}

  // Of the first chunk of the last `left` queries of all.
  int64_t Queries(int64_t left) const { return std::clamp(Rounded(left / 2), least, most); }

 private:
  static int64_t Rounded(int64_t queries) { return queries / kListChunk * kListChunk; }
};

struct KeysPlan {
  std::vector<KeyChunk> chunks;
  int64_t items = 0, blocks = 0;
};

inline KeysPlan PlanKeys(const BlockAttention& attention, const AttentionArgs& args,
                         int64_t pieces) {
  int64_t left = 0, first_cell = 0;
  for (const Segment& segment : attention.segments) left += segment.query_count;
  const ChunkRule rule(left);
  KeysPlan plan;
  for (const Segment& segment : attention.segments) {
    KeyChunk chunk = {.query_begin = segment.query_begin,
                      .key_begin = segment.key_begin,
                      .first_position = segment.first_position,
                      .key_count = segment.key_count(),
                      .first_block = plan.blocks,
                      .segment_blocks = CeilDivide(segment.key_count(), args.block_size),
                      .first_cell = first_cell};
    for (int64_t end = 0; end < segment.query_count; left -= chunk.queries) {
      chunk.first_query = end;
      chunk.queries = std::min(segment.query_count - end, rule.Queries(left));
      end += chunk.queries;
      chunk.blocks = CeilDivide(segment.first_position + end, args.block_size);
      chunk.first_item = plan.items;
      plan.items += chunk.blocks * pieces * args.key_heads;
      plan.chunks.push_back(chunk);
    }
    plan.blocks += chunk.segment_blocks;
    first_cell += chunk.segment_blocks * CeilDivide(segment.query_count, kListChunk);
  }
  return plan;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_KEY_ITEMS_HOPPER_CUH_
