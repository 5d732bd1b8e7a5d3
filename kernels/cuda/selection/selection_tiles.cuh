// What the kernels of block selection share: arguments, how a segment is cut into tiles of queries,
// and which blocks compete for a query's list.
#ifndef KERNELS_CUDA_SELECTION_SELECTION_TILES_CUH_
#define KERNELS_CUDA_SELECTION_SELECTION_TILES_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/selection/key_windows.cuh"

namespace salamander::cuda {

struct SelectArgs {
  AttentionArgs rows;  // q, heads and segments
  const BFloat16 *fine_keys, *coarse_keys;
  Windows fine, coarse;
  int64_t block_size, init_blocks, local_blocks;
  int selected_blocks;
  float scale;                  // of logits to base 2
  int tile_queries, tile_rows;  // rows: queries * G
  int64_t items;                // (segment, query tile, KV head)
  int64_t score_pitch;
  float* scores;    // [tiles at once, tile_queries, score_pitch]
  int32_t* blocks;  // [T, Hkv, selected_blocks]

  // Blocks [begin, end) that compete by score for the query at a position.
  __device__ int64_t CandidatesBegin(int64_t position) const {
    return min(init_blocks, static_cast<int64_t>(Quotient(position, block_size) + 1));
  }
  __device__ int64_t CandidatesEnd(int64_t position) const {
    return max(CandidatesBegin(position), Quotient(position, block_size) - local_blocks);
  }
  __device__ int32_t* List(int64_t row, int key_head) const {
    return blocks + (row * rows.key_heads + key_head) * selected_blocks;
  }
};

// Neighbouring queries of one KV head. The last tiles of a segment, which have most to do, come
// first.
struct SelectionTile {
  int64_t query_row, key_row, position;  // of the first query in q, of the segment's keys
  int key_head, queries;

  __device__ SelectionTile(const SelectArgs& args, int64_t item) {
    const SegmentPlan segment = SegmentOfItem(args.rows.segments, args.rows.segment_count, item);
    const int local = static_cast<int>(item - segment.first_item);
    const int tile = Quotient(local, args.rows.key_heads);
    key_head = local - tile * args.rows.key_heads;
    const int tiles = Quotient(segment.query_count + args.tile_queries - 1, args.tile_queries);
    const int64_t first = static_cast<int64_t>(tiles - 1 - tile) * args.tile_queries;
    queries =
        static_cast<int>(min(segment.query_count - first, static_cast<int64_t>(args.tile_queries)));
    query_row = segment.query_begin + first;
    key_row = segment.key_begin;
    position = segment.first_position + first;
  }

  __device__ int64_t LastPosition() const { return position + queries - 1; }
  // Whether some query has more blocks than it may list.
  __device__ bool IsScored(const SelectArgs& args) const {
    return Quotient(LastPosition(), args.block_size) + 1 > args.selected_blocks;
  }
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_SELECTION_SELECTION_TILES_CUH_
