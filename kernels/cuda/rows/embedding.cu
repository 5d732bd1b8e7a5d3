// The backward adds floats without atomics, a token's rows in order: rows are ordered by token
// (token_order.h) and the ordered rows cut into tiles. A block adds up the runs of
// equal tokens in its tile. Runs inside one tile go to the table at once; one that crosses tiles,
// of a frequent token, leaves a part per tile, and whichever of its blocks ends last adds up the
// parts in order.
#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/rows/token_order.h"
#include "kernels/cuda/runtime.h"
#include "kernels/embedding.h"

namespace salamander::cuda {
namespace {

struct ForwardArgs {
  const int32_t* tokens;  // [rows]
  const BFloat16* table;  // [vocabulary, width]
  BFloat16* output;       // [rows, width]
  int64_t rows, vocabulary, width;
  int64_t first_token, whole_vocabulary;
  float scale;
  int threads_per_row;
  bool is_aligned;
  Fault* fault;
};

// Grid: one block per kRowThreads / threads_per_row rows.
__global__ void __launch_bounds__(kRowThreads)
    ForwardKernel(const __grid_constant__ ForwardArgs args) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row =
      int64_t{blockIdx.x} * (kRowThreads / args.threads_per_row) + thread / args.threads_per_row;
  if (row >= args.rows) return;
  const int32_t token = args.tokens[row];
  const int64_t table_row = token - args.first_token;
  const bool is_known = table_row >= 0 && table_row < args.vocabulary;
  const int first = thread % args.threads_per_row * kLanes;
  if (!is_known && (token < 0 || token >= args.whole_vocabulary) && first == 0) {
    ReportFault(args.fault, FaultKind::kTokenOutsideVocabulary, row, token, args.whole_vocabulary);
  }
#pragma unroll 2
  for (int64_t c = first; c < args.width; c += args.threads_per_row * kLanes) {
    float values[kLanes] = {};
    if (is_known) {
      Unpack(LoadPacked(args.table + table_row * args.width, c, args.width, args.is_aligned),
             values);
    }
#pragma unroll
    for (float& value : values) value *= args.scale;
    StorePacked(PackEight(values), args.output + row * args.width, c, args.width, args.is_aligned);
  }
}

constexpr int kThreads = 256;
constexpr int kColumnsOfThread = 4;  // of 16 bytes in the table
constexpr int kColumns = kThreads * kColumnsOfThread;
constexpr int kTile = 64;  // ordered rows of a block: what a part costs is little beside them
constexpr int kBatch = 8;  // rows on their way at once

struct BackwardArgs {
  TokenOrder order;
  const BFloat16* d_output;  // [rows, width]
  float* d_table;            // [vocabulary, width]
  // [tiles, 2, stride]: a tile's part of a run that began before it, and of one that begins in it
  // and goes on
  float* parts;
  int32_t* arrivals;  // [tiles, column_blocks] how many parts there are of the run that begins here
  int64_t rows, width;
  int64_t stride;  // width in whole vectors
  int column_blocks;
  uint32_t vocabulary;
  float scale;
  bool is_aligned;
};

// A thread's neighbouring columns of a row.
struct Columns {
  int64_t first;
  int count;       // that the row has
  bool are_whole;  // four that one access takes

  __device__ Columns(const BackwardArgs& args, int column_block)
      : first(int64_t{column_block} * kColumns + int64_t{threadIdx.x} * kColumnsOfThread),
        count(
            static_cast<int>(max(int64_t{0}, min(int64_t{kColumnsOfThread}, args.width - first)))),
        are_whole(args.is_aligned && count == kColumnsOfThread) {}

  // bf16 as they lie in memory, zeros beyond the row.
  __device__ uint2 Load(const BFloat16* row) const {
    if (are_whole) return *reinterpret_cast<const uint2*>(row + first);
    float values[kColumnsOfThread];
#pragma unroll
    for (int i = 0; i < kColumnsOfThread; ++i) {
      values[i] = i < count ? __bfloat162float(row[first + i]) : 0.0F;
    }
    return {PackPair(values[0], values[1]), PackPair(values[2], values[3])};
  }

  __device__ float4 Load(const float* row) const {
    if (are_whole) return *reinterpret_cast<const float4*>(row + first);
    float values[kColumnsOfThread];
#pragma unroll
    for (int i = 0; i < kColumnsOfThread; ++i) values[i] = i < count ? row[first + i] : 0.0F;
    return {values[0], values[1], values[2], values[3]};
  }

  __device__ void Store(const float4& four, float* row) const {
    if (are_whole) {
      *reinterpret_cast<float4*>(row + first) = four;
      return;
    }
    const float values[kColumnsOfThread] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < kColumnsOfThread; ++i) {
      if (i < count) row[first + i] = values[i];
    }
  }
};

__device__ float4 Unpacked(const uint2& packed) {
  return {__uint_as_float(packed.x << 16), __uint_as_float(packed.x & 0xFFFF0000U),
          __uint_as_float(packed.y << 16), __uint_as_float(packed.y & 0xFFFF0000U)};
}

// sum + factor * addend
__device__ float4 MultiplyAdded(const float4& sum, float factor, const float4& addend) {
  return {sum.x + factor * addend.x, sum.y + factor * addend.y, sum.z + factor * addend.z,
          sum.w + factor * addend.w};
}

// Where the sum of the run goes that ends with a row of a tile: to this row of the table, or
constexpr int32_t kGoesOn = -1;      // no run ends here
constexpr int32_t kNowhere = -2;     // the token is outside the table
constexpr int32_t kPartBefore = -3;  // the run began before the tile
constexpr int32_t kPartAfter = -4;   // it goes on after the tile

struct Tile {
  int64_t index, begin;
  int count;
  uint32_t first_token, last_token;
  bool began_before, goes_on;  // the first and the last run

  __device__ Tile(const BackwardArgs& args, int64_t tile)
      : index(tile),
        begin(tile * kTile),
        count(static_cast<int>(min(int64_t{kTile}, args.rows - begin))) {
    const uint32_t* const tokens = args.order.tokens + begin;
    first_token = tokens[0], last_token = tokens[count - 1];
    began_before = begin > 0 && tokens[-1] == first_token;
    goes_on = begin + count < args.rows && tokens[count] == last_token;
  }

  __device__ int32_t Target(const BackwardArgs& args, int i) const {
    const uint32_t token = args.order.tokens[begin + i];
    const bool is_last = i + 1 == count;
    if (!is_last && args.order.tokens[begin + i + 1] == token) return kGoesOn;
    if (token == args.vocabulary) return kNowhere;
    if (began_before && token == first_token) return kPartBefore;
    return is_last && goes_on ? kPartAfter : static_cast<int32_t>(token);
  }

  __device__ bool HasPartBefore(const BackwardArgs& args) const {
    return began_before && first_token != args.vocabulary;
  }
  __device__ bool HasPartAfter(const BackwardArgs& args) const {
    const bool is_part_before = began_before && first_token == last_token;
    return goes_on && !is_part_before && last_token != args.vocabulary;
  }
};

__device__ float* PartOf(const BackwardArgs& args, int64_t tile, int32_t target) {
  return args.parts + (2 * tile + (target == kPartBefore ? 0 : 1)) * args.stride;
}

// Adds up the tile's runs. rows, targets [kTile] in shared memory.
__device__ void SumRuns(const BackwardArgs& args, const Tile& tile, const Columns& columns,
                        const int32_t* rows, const int32_t* targets) {
  float4 sum = {};
  for (int first = 0; first < tile.count; first += kBatch) {
    uint2 d_output[kBatch];
    float4 before[kBatch];  // of the table
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= tile.count) break;
      d_output[i] = columns.Load(args.d_output + rows[first + i] * args.width);
      const int32_t target = targets[first + i];
      if (target >= 0) before[i] = columns.Load(args.d_table + target * args.width);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= tile.count) break;
      sum = MultiplyAdded(sum, 1.0F, Unpacked(d_output[i]));
      const int32_t target = targets[first + i];
      if (target == kGoesOn) continue;
      if (target >= 0) {
        columns.Store(MultiplyAdded(before[i], args.scale, sum),
                      args.d_table + target * args.width);
      } else if (target != kNowhere && columns.count > 0) {
        *reinterpret_cast<float4*>(PartOf(args, tile.index, target) + columns.first) = sum;
      }
      sum = {};
    }
  }
}

// How many tiles next to `tile`, after it or before it (step -1), the run of `token` goes on into.
// Every thread of the block calls.
__device__ int64_t TilesOfRun(const BackwardArgs& args, int64_t tile, int step, uint32_t token) {
  for (int64_t found = 0;;) {
    const int64_t other = tile + step * (found + 1 + threadIdx.x);
    const int64_t nearest = step > 0 ? other * kTile : (other + 1) * kTile - 1;
    const bool is_in = other >= 0 && nearest < args.rows && args.order.tokens[nearest] == token;
    const int count = __syncthreads_count(is_in ? 1 : 0);
    found += count;
    if (count < kThreads) return found;
  }
}

// Called by every thread of a block that has left its part of the run of `token`: the last block to
// call adds all parts to the table.
__device__ void FinishRun(const BackwardArgs& args, int64_t tile, const Columns& columns,
                          int column_block, uint32_t token) {
  __shared__ bool is_last;
  const int64_t begin = tile - TilesOfRun(args, tile, -1, token);
  const int64_t end = tile + TilesOfRun(args, tile, 1, token);
  __threadfence();  // the part is there for all
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last =
        atomicAdd(&args.arrivals[begin * args.column_blocks + column_block], 1) == end - begin;
  }
  __syncthreads();
  if (!is_last || columns.count == 0) return;
  __threadfence();  // all parts are there for the block
  const auto part_of = [&](int64_t of_tile, int32_t target) {
    return __ldcg(reinterpret_cast<const float4*>(PartOf(args, of_tile, target) + columns.first));
  };
  float* const row = args.d_table + token * args.width;
  const float4 before = columns.Load(row);
  float4 sum = part_of(begin, kPartAfter);
#pragma unroll 8
  for (int64_t next = begin + 1; next <= end; ++next) {
    sum = MultiplyAdded(sum, 1.0F, part_of(next, kPartBefore));
  }
  columns.Store(MultiplyAdded(before, args.scale, sum), row);
}

// Grid: one block per (tile, kColumns columns), columns fastest. A block walks its tile's rows in
// order.
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(const __grid_constant__ BackwardArgs args) {
  __shared__ int32_t rows[kTile], targets[kTile];
  const int column_block = static_cast<int>(blockIdx.x % args.column_blocks);
  const Tile tile(args, blockIdx.x / args.column_blocks);
  const Columns columns(args, column_block);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < tile.count) {
    rows[thread] = args.order.rows[tile.begin + thread];
    targets[thread] = tile.Target(args, thread);
  }
  __syncthreads();
  SumRuns(args, tile, columns, rows, targets);
  if (tile.HasPartBefore(args)) {
    FinishRun(args, tile.index, columns, column_block, tile.first_token);
  }
  if (tile.HasPartAfter(args)) {
    FinishRun(args, tile.index, columns, column_block, tile.last_token);
  }
}

}  // namespace

absl::Status EmbeddingForward(const ExecutionContext& context, const EmbeddingForwardArgs& args) {
  if (args.output.size() == 0) return absl::OkStatus();
  const int64_t width = args.table.dim(1);
  ForwardArgs device{.tokens = args.tokens.data<int32_t>(),
                     .table = BFloat16Data(args.table),
                     .output = BFloat16Data(args.output),
                     .rows = args.tokens.dim(0),
                     .vocabulary = args.table.dim(0),
                     .width = width,
                     .first_token = args.part.first_token,
                     .whole_vocabulary = WholeVocabulary(args.part, args.table),
                     .scale = static_cast<float>(args.scale),
                     .threads_per_row = ThreadsPerRow(width),
                     .fault = context.cuda->fault()};
  device.is_aligned = width % kLanes == 0 && AreAligned({device.table, device.output});
  const int64_t blocks = CeilDivide(device.rows, kRowThreads / device.threads_per_row);
  return Launch(context, "EmbeddingForward", ForwardKernel,
                {.grid = {blocks}, .block = kRowThreads}, device);
}

absl::Status EmbeddingBackward(const ExecutionContext& context, const EmbeddingBackwardArgs& args) {
  if (args.d_output.size() == 0) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  const int64_t rows = args.tokens.dim(0), width = args.d_table.dim(1);
  const int64_t tiles = CeilDivide(rows, kTile), column_blocks = CeilDivide(width, kColumns);
  BackwardArgs device{.d_output = BFloat16Data(args.d_output),
                      .d_table = args.d_table.data<float>(),
                      .rows = rows,
                      .width = width,
                      .stride = CeilDivide(width, kColumnsOfThread) * kColumnsOfThread,
                      .column_blocks = static_cast<int>(column_blocks),
                      .vocabulary = static_cast<uint32_t>(args.d_table.dim(0)),
                      .scale = static_cast<float>(args.scale)};
  device.is_aligned =
      width % kColumnsOfThread == 0 && AreAligned({device.d_output, device.d_table});
  ASSIGN_OR_RETURN(device.order,
                   OrderByToken(context, args.tokens, args.d_table.dim(0),
                                {.first_token = args.part.first_token,
                                 .vocabulary = WholeVocabulary(args.part, args.d_table)}));
  device.parts = context.arena->Array<float>(tiles * 2 * device.stride);
  device.arrivals = context.arena->Array<int32_t>(tiles * column_blocks);
  RETURN_IF_ERROR(context.cuda->Fill(
      device.arrivals, 0, tiles * column_blocks * static_cast<int64_t>(sizeof(int32_t))));
  return Launch(context, "EmbeddingBackward", BackwardKernel,
                {.grid = {tiles * column_blocks}, .block = kThreads}, device);
}

}  // namespace salamander::cuda
