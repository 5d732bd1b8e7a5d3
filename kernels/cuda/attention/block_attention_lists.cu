// A segment's queries are cut into chunks. Kernels: (1) how often each chunk names each block, (2)
// for every block the sum over the chunks before, (3) the prefix sum over blocks, (4) the fill. A
// count of (chunk, block) is a cell; a segment has chunks x blocks of them for every KV head.
#include <algorithm>
#include <climits>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention_lists.h"
#include "kernels/cuda/block_list.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStepQueries = 64;     // a bit each of a block's mask
constexpr int kWindowBlocks = 2048;  // blocks that counters in shared memory serve at once
constexpr int kSumBatch = 16;        // loads under way at once
constexpr int kScanThreads = 1024;
// A part is at least as long as hides its cost, and a quarter of the longest list there can be:
// short beside a multiprocessor's share of the work, and few enough that the parts' sums stay
// small.
constexpr int64_t kLeastPartQueries = 2048;
constexpr int64_t kMostParts = 4;

struct ListSegment {
  int64_t query_begin, query_count, first_position;
  int64_t first_block, blocks;
  int64_t first_chunk;
  int64_t first_cell;  // [chunks, blocks] from here in every KV head's cells
};

struct ListArgs {
  const int32_t* lists;  // [T, Hkv, list_length]
  int list_length, key_heads, block_size;
  const ListSegment* segments;
  int segment_count;
  int64_t blocks, cells;
  int32_t* counts;   // [Hkv, cells]
  int64_t* begins;   // [Hkv * blocks + 1]
  int32_t* queries;  // all lists
};

// Calls visit(query, block), by a warp for a query, for the blocks in [first, end) that queries
// [begin, begin + count) name. Blocks after a query's own count as not named.
template <typename Visit>
__device__ void VisitLists(const ListArgs& args, const ListSegment& segment, int key_head,
                           int64_t begin, int count, int64_t first, int64_t end,
                           const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < count; i += kThreads / kWarp) {
    const int64_t query = begin + i;
    const int64_t own = (segment.first_position + query) / args.block_size;
    const int32_t* const list =
        args.lists + ((segment.query_begin + query) * args.key_heads + key_head) * args.list_length;
    for (int n = lane; n < args.list_length; n += kWarp) {
      const int block = list[n];
      if (block >= first && block < end && block <= own) visit(query, block);
    }
  }
}

// Grid: one block per (chunk, KV head).
__global__ void CountReadersKernel(const ListArgs args) {
  __shared__ int counts[kWindowBlocks];
  const ListSegment segment =
      EntryOf(args.segments, args.segment_count, blockIdx.x, &ListSegment::first_chunk);
  const int64_t chunk = blockIdx.x - segment.first_chunk;
  const int64_t begin = chunk * kListChunk;
  const int count = static_cast<int>(min(kListChunk, segment.query_count - begin));
  int32_t* const cells =
      args.counts + blockIdx.y * args.cells + segment.first_cell + chunk * segment.blocks;
  for (int64_t first = 0; first < segment.blocks; first += kWindowBlocks) {
    const int64_t end = min(first + kWindowBlocks, segment.blocks);
    for (int i = static_cast<int>(threadIdx.x); i < kWindowBlocks; i += kThreads) counts[i] = 0;
    __syncthreads();
    VisitLists(args, segment, static_cast<int>(blockIdx.y), begin, count, first, end,
               [&](int64_t, int64_t block) { atomicAdd(&counts[block - first], 1); });
    __syncthreads();
    for (int64_t block = first + threadIdx.x; block < end; block += kThreads) {
      cells[block] = counts[block - first];
    }
    __syncthreads();
  }
}

// Turns counts into the sums over the chunks before, and leaves each block's total in begins.
// Grid: (blocks of threads over all blocks, KV head).
__global__ void SumChunksKernel(const ListArgs args) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= args.blocks) return;
  const ListSegment segment =
      EntryOf(args.segments, args.segment_count, index, &ListSegment::first_block);
  int32_t* cell =
      args.counts + blockIdx.y * args.cells + segment.first_cell + index - segment.first_block;
  const int64_t chunks = CeilDivide(segment.query_count, kListChunk);
  int32_t sum = 0;
  for (int64_t chunk = 0; chunk < chunks; chunk += kSumBatch) {
    int32_t counts[kSumBatch];
#pragma unroll
    for (int i = 0; i < kSumBatch; ++i) {
      counts[i] = chunk + i < chunks ? cell[i * segment.blocks] : 0;
    }
#pragma unroll
    for (int i = 0; i < kSumBatch; ++i) {
      if (chunk + i < chunks) cell[i * segment.blocks] = sum;
      sum += counts[i];
    }
    cell += kSumBatch * segment.blocks;
  }
  args.begins[blockIdx.y * args.blocks + index] = sum;
}

// Turns `count` totals into the sums of those before, and writes the whole sum behind them. Grid:
// one block.
__global__ void __launch_bounds__(kScanThreads) PrefixSumKernel(int64_t* values, int64_t count) {
  __shared__ int64_t warp_sums[kWarp];
  __shared__ int64_t carried;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x == 0) carried = 0;
  __syncthreads();
  for (int64_t first = 0; first < count; first += kScanThreads) {
    const int64_t index = first + threadIdx.x;
    const int64_t value = index < count ? values[index] : 0;
    int64_t sum = value;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int64_t other = __shfl_up_sync(kFullMask, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (lane == kWarp - 1) warp_sums[warp] = sum;
    __syncthreads();
    int64_t before = carried;
    for (int i = 0; i < warp; ++i) before += warp_sums[i];
    if (index < count) values[index] = before + sum - value;
    __syncthreads();
    if (threadIdx.x == kScanThreads - 1) carried = before + sum;
    __syncthreads();
  }
  if (threadIdx.x == 0) values[count] = carried;
}

// Grid: blocks of threads over all blocks and KV heads.
__global__ void CountPartsKernel(const int64_t* begins, int64_t count, int64_t part_queries,
                                 int64_t* parts) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t readers = begins[index + 1] - begins[index];
  parts[index] = readers > part_queries ? CeilDivide(readers, part_queries) : 0;
}

// Grid: one block per (chunk, KV head). Step by step the queries set their bits in the masks of the
// blocks they name; then each block's thread writes its readers out in the order of the bits.
__global__ void FillReadersKernel(const ListArgs args) {
  __shared__ unsigned masks[kWindowBlocks][2];
  __shared__ int written[kWindowBlocks];
  const ListSegment segment =
      EntryOf(args.segments, args.segment_count, blockIdx.x, &ListSegment::first_chunk);
  const int64_t chunk = blockIdx.x - segment.first_chunk;
  const int64_t chunk_begin = chunk * kListChunk;
  const int64_t chunk_end = min(chunk_begin + kListChunk, segment.query_count);
  const int32_t* const cells =
      args.counts + blockIdx.y * args.cells + segment.first_cell + chunk * segment.blocks;
  const int64_t* const begins = args.begins + blockIdx.y * args.blocks + segment.first_block;
  for (int64_t first = 0; first < segment.blocks; first += kWindowBlocks) {
    const int64_t end = min(first + kWindowBlocks, segment.blocks);
    for (int i = static_cast<int>(threadIdx.x); i < kWindowBlocks; i += kThreads) {
      masks[i][0] = masks[i][1] = 0;
      written[i] = 0;
    }
    __syncthreads();
    for (int64_t begin = chunk_begin; begin < chunk_end; begin += kStepQueries) {
      const int count =
          static_cast<int>(min(static_cast<int64_t>(kStepQueries), chunk_end - begin));
      VisitLists(args, segment, static_cast<int>(blockIdx.y), begin, count, first, end,
                 [&](int64_t query, int64_t block) {
                   const int bit = static_cast<int>(query - begin);
                   atomicOr(&masks[block - first][bit / kWarp], 1U << bit % kWarp);
                 });
      __syncthreads();
      for (int64_t block = first + threadIdx.x; block < end; block += kThreads) {
        const int i = static_cast<int>(block - first);
        int32_t* place = args.queries + begins[block] + cells[block] + written[i];
        for (int half = 0; half < 2; ++half) {
          unsigned mask = masks[i][half];
          masks[i][half] = 0;
          written[i] += __popc(mask);
          for (; mask != 0; mask &= mask - 1) {
            *place++ =
                static_cast<int32_t>(begin) + half * kWarp + __ffs(static_cast<int>(mask)) - 1;
          }
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace

absl::StatusOr<BlockReaders> FindBlockReaders(const ExecutionContext& context,
                                              const BlockAttention& attention) {
  ListArgs args = {};
  args.lists = attention.blocks.data<int32_t>();
  args.list_length = static_cast<int>(attention.blocks.dim(2));
  args.key_heads = static_cast<int>(attention.blocks.dim(1));
  args.block_size = static_cast<int>(std::min<int64_t>(attention.block_size, INT_MAX));
  std::vector<ListSegment> segments;
  int64_t chunks = 0, queries = 0, longest = 1;
  for (const Segment& segment : attention.segments) {
    const int64_t blocks = CeilDivide(segment.key_count(), attention.block_size);
    const int64_t segment_chunks = CeilDivide(segment.query_count, kListChunk);
    segments.push_back({segment.query_begin, segment.query_count, segment.first_position,
                        args.blocks, blocks, chunks, args.cells});
    args.blocks += blocks;
    args.cells += segment_chunks * blocks;
    chunks += segment_chunks;
    queries += segment.query_count;
    longest = std::max(longest, segment.query_count);
  }
  args.segment_count = static_cast<int>(segments.size());
  ASSIGN_OR_RETURN(args.segments, UploadArray<ListSegment>(context, absl::MakeConstSpan(segments)));
  args.counts = context.arena->Array<int32_t>(args.key_heads * args.cells);
  args.begins = context.arena->Array<int64_t>(args.key_heads * args.blocks + 1);
  args.queries = context.arena->Array<int32_t>(queries * args.key_heads * args.list_length);
  const Grid chunk_grid = {chunks, args.key_heads};
  RETURN_IF_ERROR(Launch(context, "CountReadersKernel", CountReadersKernel,
                         {.grid = chunk_grid, .block = kThreads}, args));
  const Grid block_grid = {CeilDivide(args.blocks, kThreads), args.key_heads};
  RETURN_IF_ERROR(Launch(context, "SumChunksKernel", SumChunksKernel,
                         {.grid = block_grid, .block = kThreads}, args));
  RETURN_IF_ERROR(Launch(context, "PrefixSumKernel", PrefixSumKernel,
                         {.grid = {1}, .block = kScanThreads}, args.begins,
                         args.key_heads * args.blocks));
  RETURN_IF_ERROR(Launch(context, "FillReadersKernel", FillReadersKernel,
                         {.grid = chunk_grid, .block = kThreads}, args));
  BlockReaders readers = {};
  readers.queries = args.queries;
  readers.begins = args.begins;
  readers.blocks = args.blocks;
  readers.before = args.counts;
  readers.cells = args.cells;
  readers.part_queries = std::max(kLeastPartQueries, CeilDivide(longest, kMostParts));
  readers.most_parts = CeilDivide(longest, readers.part_queries);
  if (readers.most_parts == 1) return readers;
  // A list of more than P readers has at most 2 / P parts a reader.
  readers.stored_parts = 2 * queries * args.key_heads * args.list_length / readers.part_queries + 1;
  const int64_t lists = args.key_heads * args.blocks;
  auto* const parts = context.arena->Array<int64_t>(lists + 1);
  RETURN_IF_ERROR(Launch(context, "CountPartsKernel", CountPartsKernel,
                         {.grid = {CeilDivide(lists, kThreads)}, .block = kThreads}, args.begins,
                         lists, readers.part_queries, parts));
  RETURN_IF_ERROR(Launch(context, "PrefixSumKernel", PrefixSumKernel,
                         {.grid = {1}, .block = kScanThreads}, parts, lists));
  readers.first_parts = parts;
  return readers;
}

}  // namespace salamander::cuda
