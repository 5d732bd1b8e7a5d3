// The lists of blocks turned round: for every (KV head, block) the queries that read it, in
// ascending order. Built by counting, a prefix sum and an ordered fill; integer counts are all that
// atomics touch, so that the order is a matter of the lists alone.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_LISTS_H_
#define KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_LISTS_H_

#include <cstdint>

#include "absl/status/statusor.h"

#include "kernels/cuda/attention/block_attention.h"

namespace salamander::cuda {

constexpr int64_t kListChunk = 256;

// Readers of block b of segment s for KV head h: queries[begins[i] .. begins[i + 1]) with
// i = h * blocks + first_block(s) + b, counted from the segment's first query. Blocks with more
// than part_queries readers, the first of a document above all, are worked on in parts of so many.
struct BlockReaders {
  const int32_t* queries;
  const int64_t* begins;  // [Hkv * blocks + 1]
  int64_t blocks;         // of all segments
  int64_t part_queries;
  const int64_t* first_parts;  // [Hkv * blocks + 1] parts of the blocks before that are in parts
  int64_t most_parts;          // that a block can have
  int64_t stored_parts;        // no fewer than there are in blocks in parts
  // How many of a block's readers lie before a chunk of kListChunk queries: [Hkv, cells], and of a
  // head the segments' [chunks, blocks] one after the other.
  const int32_t* before;
  int64_t cells;
};

// Memory comes from the context's arena and lasts as long as the caller's scope. Blocks of a
// segment are numbered on from those of the segment before it: ceil(key_count / block_size) each.
absl::StatusOr<BlockReaders> FindBlockReaders(const ExecutionContext& context,
                                              const BlockAttention& attention);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_LISTS_H_
