// The backward needs no atomics: rows are sorted by token (stably, so that a token's rows keep
// their order) and the sorted rows cut into tiles. A block adds up the runs of equal tokens in its
// tile. Runs inside one tile go to the table at once; a run that crosses tiles, of a frequent
// token, leaves one partial row per tile, which a second kernel adds in order.
#include <bit>

#include <cub/device/device_radix_sort.cuh>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/status.h"
#include "kernels/embedding.h"

namespace salamander::cuda {
namespace {

struct ForwardArgs {
  const int32_t* tokens;  // [rows]
  const BFloat16* table;  // [vocabulary, width]
  BFloat16* output;       // [rows, width]
  int64_t rows, vocabulary, width;
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
  const bool is_known = token >= 0 && token < args.vocabulary;
  const int first = thread % args.threads_per_row * kLanes;
  if (!is_known && first == 0) {
    ReportFault(args.fault, FaultKind::kTokenOutsideVocabulary, row, token, args.vocabulary);
  }
#pragma unroll 2
  for (int64_t c = first; c < args.width; c += args.threads_per_row * kLanes) {
    float values[kLanes] = {};
    if (is_known) {
      Unpack(LoadPacked(args.table + token * args.width, c, args.width, args.is_aligned), values);
    }
#pragma unroll
    for (float& value : values) value *= args.scale;
    StorePacked(PackEight(values), args.output + row * args.width, c, args.width, args.is_aligned);
  }
}

constexpr int kThreads = 128;
constexpr int kColumns = kThreads * kLanes;  // of a block
constexpr int kTile = 64;                    // sorted rows of a block

// What the kernels of the backward share.
struct BackwardArgs {
  const uint32_t* tokens;    // [rows] ascending; `vocabulary` stands for one outside it
  const int32_t* order;      // [rows] the row of d_output that each came from
  const BFloat16* d_output;  // [rows, width]
  float* d_table;            // [vocabulary, width]
  // [tiles, 2, stride]: a tile's part of a run that began before it, and of one that begins in it
  // and goes on
  float* partials;
  int64_t rows, width;
  int64_t stride;  // width in whole vectors
  uint32_t vocabulary;
  float scale;
  bool is_aligned;
};

// keys and order [rows]. Grid: one block per kThreads rows.
__global__ void __launch_bounds__(kThreads)
    KeysKernel(const int32_t* tokens, int64_t rows, int64_t vocabulary, uint32_t* keys,
               int32_t* order, Fault* fault) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows) return;
  const int32_t token = tokens[row];
  const bool is_known = token >= 0 && token < vocabulary;
  if (!is_known) ReportFault(fault, FaultKind::kTokenOutsideVocabulary, row, token, vocabulary);
  keys[row] = static_cast<uint32_t>(is_known ? token : vocabulary);
  order[row] = static_cast<int32_t>(row);
}

// d_table[token, column...] += scale * sum
__device__ void AddToTable(const BackwardArgs& args, uint32_t token, int64_t column,
                           const float (&sum)[kLanes]) {
  float* const to = args.d_table + token * args.width + column;
  if (args.is_aligned) {
#pragma unroll
    for (int i = 0; i < kLanes; i += 4) {
      float4 four = *reinterpret_cast<const float4*>(to + i);
      four.x += args.scale * sum[i];
      four.y += args.scale * sum[i + 1];
      four.z += args.scale * sum[i + 2];
      four.w += args.scale * sum[i + 3];
      *reinterpret_cast<float4*>(to + i) = four;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    if (column + i < args.width) to[i] += args.scale * sum[i];
  }
}

// Grid: (tiles, blocks of kColumns columns). A block walks its tile's rows in order.
__global__ void __launch_bounds__(kThreads)
    SumTilesKernel(const __grid_constant__ BackwardArgs args) {
  __shared__ uint32_t tokens[kTile];
  __shared__ int32_t order[kTile];
  const int64_t begin = int64_t{blockIdx.x} * kTile;
  const int count = static_cast<int>(min(int64_t{kTile}, args.rows - begin));
  if (threadIdx.x < count) {
    tokens[threadIdx.x] = args.tokens[begin + threadIdx.x];
    order[threadIdx.x] = args.order[begin + threadIdx.x];
  }
  __syncthreads();
  const int64_t column = int64_t{blockIdx.y} * kColumns + threadIdx.x * kLanes;
  if (column >= args.width) return;
  const bool began_before = begin > 0 && args.tokens[begin - 1] == tokens[0];
  const bool goes_on = begin + count < args.rows && args.tokens[begin + count] == tokens[count - 1];

  constexpr int kBatch = 8;  // rows on their way at once
  Packed batch[kBatch];
  float sum[kLanes] = {};
  int run_begin = 0;
  for (int first = 0; first < count; first += kBatch) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= count) break;
      const BFloat16* const row = args.d_output + order[first + i] * args.width;
      batch[i] = LoadPacked(row, column, args.width, args.is_aligned);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = first + i;
      if (at >= count) break;
      float dy[kLanes];
      Unpack(batch[i], dy);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) sum[lane] += dy[lane];
      const bool is_last = at + 1 == count;
      if (!is_last && tokens[at + 1] == tokens[at]) continue;
      const bool from_before = run_begin == 0 && began_before;
      if (from_before || (is_last && goes_on)) {
        const int64_t slot = int64_t{blockIdx.x} * 2 + (from_before ? 0 : 1);
        float4* const to = reinterpret_cast<float4*>(args.partials + slot * args.stride + column);
        to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
      } else if (tokens[at] != args.vocabulary) {
        AddToTable(args, tokens[at], column, sum);
      }
#pragma unroll
      for (float& value : sum) value = 0.0F;
      run_begin = at + 1;
    }
  }
}

// The first of the ascending tokens [begin, rows) above `token`.
__device__ int64_t EndOfRun(const uint32_t* tokens, int64_t begin, int64_t rows, uint32_t token) {
  int64_t low = begin, high = rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (tokens[middle] <= token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Grid: (tiles, blocks of kColumns columns). The block of the tile where a run begins adds up those
// that it goes on into.
__global__ void __launch_bounds__(kThreads)
    CombineKernel(const __grid_constant__ BackwardArgs args) {
  const int64_t begin = int64_t{blockIdx.x} * kTile, end = begin + kTile;
  if (end >= args.rows) return;
  const uint32_t token = args.tokens[end - 1];
  const bool goes_on = args.tokens[end] == token;
  const bool began_before = begin > 0 && args.tokens[begin - 1] == token;
  const int64_t column = int64_t{blockIdx.y} * kColumns + threadIdx.x * kLanes;
  if (!goes_on || began_before || token == args.vocabulary || column >= args.width) return;
  const int64_t last_tile = (EndOfRun(args.tokens, end, args.rows, token) - 1) / kTile;
  const auto partial_of = [&](int64_t slot) {
    return reinterpret_cast<const float4*>(args.partials + slot * args.stride + column);
  };
  float4 low = partial_of(2 * int64_t{blockIdx.x} + 1)[0];
  float4 high = partial_of(2 * int64_t{blockIdx.x} + 1)[1];
#pragma unroll 8
  for (int64_t tile = int64_t{blockIdx.x} + 1; tile <= last_tile; ++tile) {
    const float4 a = partial_of(2 * tile)[0], b = partial_of(2 * tile)[1];
    low.x += a.x;
    low.y += a.y;
    low.z += a.z;
    low.w += a.w;
    high.x += b.x;
    high.y += b.y;
    high.z += b.z;
    high.w += b.w;
  }
  const float sum[kLanes] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  AddToTable(args, token, column, sum);
}

struct SortedTokens {
  const uint32_t* tokens;
  const int32_t* order;
};

// Both in the context's arena.
absl::StatusOr<SortedTokens> SortTokens(const ExecutionContext& context, const TensorView& tokens,
                                        int64_t vocabulary) {
  const int64_t rows = tokens.dim(0);
  auto* const keys = context.arena->Array<uint32_t>(rows);
  auto* const order = context.arena->Array<int32_t>(rows);
  auto* const sorted_keys = context.arena->Array<uint32_t>(rows);
  auto* const sorted_order = context.arena->Array<int32_t>(rows);
  RETURN_IF_ERROR(Launch(context, "EmbeddingBackward", KeysKernel,
                         {.grid = {CeilDivide(rows, kThreads)}, .block = kThreads},
                         tokens.data<int32_t>(), rows, vocabulary, keys, order,
                         context.cuda->fault()));
  const int bits = std::bit_width(static_cast<uint64_t>(vocabulary));
  size_t bytes = 0;
  const auto sort = [&](void* scratch, cudaStream_t stream) -> absl::Status {
    RETURN_IF_CUDA_ERROR(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, order,
                                                         sorted_order, rows, 0, bits, stream));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(sort(nullptr, context.cuda->stream()));  // says how many bytes it wants
  void* const scratch = context.arena->Allocate(static_cast<int64_t>(bytes));
  const uint64_t identity[] = {WordOf(keys), WordOf(scratch), static_cast<uint64_t>(rows),
                               static_cast<uint64_t>(bits)};
  RETURN_IF_ERROR(
      context.cuda->Call({.name = "EmbeddingBackward's sort",
                          .identity = identity,
                          .enqueue = [&](cudaStream_t stream) { return sort(scratch, stream); }}));
  return SortedTokens{sorted_keys, sorted_order};
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
  const int64_t tiles = CeilDivide(rows, kTile);
  ASSIGN_OR_RETURN(const SortedTokens sorted,
                   SortTokens(context, args.tokens, args.d_table.dim(0)));
  BackwardArgs device{.tokens = sorted.tokens,
                      .order = sorted.order,
                      .d_output = BFloat16Data(args.d_output),
                      .d_table = args.d_table.data<float>(),
                      .rows = rows,
                      .width = width,
                      .stride = CeilDivide(width, kLanes) * kLanes,
                      .vocabulary = static_cast<uint32_t>(args.d_table.dim(0)),
                      .scale = static_cast<float>(args.scale)};
  device.is_aligned = width % kLanes == 0 && AreAligned({device.d_output, device.d_table});
  device.partials = context.arena->Array<float>(tiles * 2 * device.stride);
  const Grid grid = {tiles, CeilDivide(width, kColumns)};
  RETURN_IF_ERROR(Launch(context, "EmbeddingBackward", SumTilesKernel,
                         {.grid = grid, .block = kThreads}, device));
  return Launch(context, "EmbeddingBackward", CombineKernel, {.grid = grid, .block = kThreads},
                device);
}

}  // namespace salamander::cuda
