// A radix sort by counting, the least digit first. The streams of a step are short: what takes time
// is the number of kernels and the steps that each waits for, so digits are wide (two serve 2^18
// tokens) and tiles small. The rows are cut into tiles, a thread block each:
//   (1)  how often each tile holds each value of the lowest digit
//   (2)  for every digit: a row goes behind all rows of lower digits, those of its own digit in the
//        tiles before, and those before it in the tile. Counts the next digit where rows arrive
// Integer counts are all that atomics touch, so that the order is a matter of the tokens alone.
#include <bit>

#include <cub/block/block_scan.cuh>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows/token_order.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigitBits = 9;
constexpr int kBins = 1 << kDigitBits;
constexpr int kRowsOfLane = 4;
constexpr int kRoundBits = 10;  // rows that a block places at once
constexpr int kRoundRows = 1 << kRoundBits;
static_assert(kRoundRows == kThreads * kRowsOfLane);
static_assert(kBins == 2 * kThreads);  // a thread sums up two of them
constexpr int64_t kMostTiles = 128;    // every block reads the counts of all

struct OrderArgs {
  const int32_t* tokens;  // [rows]
  int32_t rows, vocabulary;
  int32_t first_token, whole_vocabulary;
  int tile_bits, tiles;  // a tile is 2^tile_bits rows
  int digit_bits, digits;
  int32_t* counts;          // [digits, tiles, kBins]
  uint32_t* keys_after[2];  // [rows] tokens in order of an even and of an odd digit
  int32_t* rows_after[2];   // [rows]
  Fault* fault;
};

__device__ uint32_t KeyOf(const OrderArgs& args, int32_t row) {
  // Unsigned: what lies before the first token comes behind the table.
  const uint32_t row_of_table =
      static_cast<uint32_t>(args.tokens[row]) - static_cast<uint32_t>(args.first_token);
  return min(row_of_table, static_cast<uint32_t>(args.vocabulary));
}

__device__ int DigitOf(const OrderArgs& args, uint32_t key, int digit) {
  return static_cast<int>(key >> (digit * args.digit_bits) & ((1U << args.digit_bits) - 1));
}

__device__ int32_t* CountsOf(const OrderArgs& args, int digit, int tile) {
  return args.counts + (int64_t{digit} * args.tiles + tile) * kBins;
}

// A tile's.
struct Rows {
  int32_t begin, end;

  __device__ Rows(const OrderArgs& args, int tile)
      : begin(tile << args.tile_bits), end(min(begin + (1 << args.tile_bits), args.rows)) {}
};

// Of the warp's lanes with a row, those with the same digit.
__device__ unsigned PeersOf(int digit, bool is_row) {
  unsigned peers = __ballot_sync(kFullMask, is_row);
#pragma unroll
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool is_set = (digit >> bit & 1) != 0;
    const unsigned set = __ballot_sync(kFullMask, is_set);
    peers &= is_set ? set : ~set;
  }
  return peers;
}

// Two counts of up to kRoundRows in one word, so that a thread sums up its two bins at once.
union BinCounts {
  uint16_t of_bin[kBins];
  uint32_t of_two[kThreads];
};

// Rows of a round: a warp's lie together, lane l takes every 32nd from its l-th on.
struct RoundRows {
  uint32_t key[kRowsOfLane];
  int32_t row[kRowsOfLane];
  int digit[kRowsOfLane];
  int rank[kRowsOfLane];  // among the warp's rows with the same digit
  bool is_row[kRowsOfLane];

  __device__ void Load(const OrderArgs& args, int order_digit, int32_t first, int32_t end) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int source = (order_digit + 1) % 2;
#pragma unroll
    for (int i = 0; i < kRowsOfLane; ++i) {
      const int32_t at = first + (warp * kRowsOfLane + i) * kWarp + lane;
      is_row[i] = at < end;
      key[i] = 0;
      if (is_row[i]) {
        key[i] = order_digit == 0 ? KeyOf(args, at) : args.keys_after[source][at];
        row[i] = order_digit == 0 ? at : args.rows_after[source][at];
      }
      digit[i] = DigitOf(args, key[i], order_digit);
    }
  }

  // Leaves the warp's counts in `counts`.
  __device__ void Rank(BinCounts& counts) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int word = lane; word < kThreads; word += kWarp) counts.of_two[word] = 0;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRowsOfLane; ++i) {
      const unsigned peers = PeersOf(digit[i], is_row[i]);
      const int before = __popc(peers & ((1U << lane) - 1));
      rank[i] = counts.of_bin[digit[i]] + before;
      __syncwarp();
      if (is_row[i] && before == 0) {
        counts.of_bin[digit[i]] = static_cast<uint16_t>(rank[i] + __popc(peers));
      }
      __syncwarp();
    }
  }
};

// Grid: one block per tile. Clears the counts of the later digits.
__global__ void __launch_bounds__(kThreads) CountKernel(const __grid_constant__ OrderArgs args) {
  __shared__ int32_t counts[kBins];
  const int tile = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  for (int bin = thread; bin < kBins; bin += kThreads) counts[bin] = 0;
  __syncthreads();
  const Rows rows(args, tile);
  for (int32_t first = rows.begin; first < rows.end; first += kRoundRows) {
    RoundRows round;
    round.Load(args, 0, first, rows.end);
#pragma unroll
    for (int i = 0; i < kRowsOfLane; ++i) {
      if (!round.is_row[i]) continue;
      atomicAdd(&counts[round.digit[i]], 1);
      if (round.key[i] != static_cast<uint32_t>(args.vocabulary)) continue;
      const int32_t token = args.tokens[round.row[i]];
      if (token >= 0 && token < args.whole_vocabulary) continue;
      ReportFault(args.fault, FaultKind::kTokenOutsideVocabulary, round.row[i], token,
                  args.whole_vocabulary);
    }
  }
  __syncthreads();
  for (int bin = thread; bin < kBins; bin += kThreads) {
    CountsOf(args, 0, tile)[bin] = counts[bin];
    for (int digit = 1; digit < args.digits; ++digit) CountsOf(args, digit, tile)[bin] = 0;
  }
}

// Fills next[bin], where the tile's first row of each value of the digit goes.
__device__ void FindFirstPlaces(const OrderArgs& args, int digit, int32_t (&next)[kBins]) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage scratch;
  const int thread = static_cast<int>(threadIdx.x);
  const auto* counts = reinterpret_cast<const int2*>(CountsOf(args, digit, 0)) + thread;
  int2 all = {}, before = {};  // of the thread's two bins
#pragma unroll 16
  for (int tile = 0; tile < args.tiles; ++tile) {
    const int2 count = counts[tile * kThreads];
    all.x += count.x;
    all.y += count.y;
    if (tile < blockIdx.x) {
      before.x += count.x;
      before.y += count.y;
    }
  }
  int lower;  // rows with a lower digit
  Scan(scratch).ExclusiveSum(all.x + all.y, lower);
  next[2 * thread] = lower + before.x;
  next[2 * thread + 1] = lower + all.x + before.y;
}

// Orders rows by one digit, those equal in it as they were. Grid: one block per tile.
__global__ void __launch_bounds__(kThreads)
    PlaceKernel(const __grid_constant__ OrderArgs args, int digit) {
  __shared__ int32_t next[kBins];
  __shared__ BinCounts counts[kWarps];  // of each warp, then of the warps before it
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const Rows rows(args, static_cast<int>(blockIdx.x));
  RoundRows round;
  round.Load(args, digit, rows.begin, rows.end);  // on their way while counts are summed up
  FindFirstPlaces(args, digit, next);
  for (int32_t first = rows.begin; first < rows.end; first += kRoundRows) {
    if (first > rows.begin) round.Load(args, digit, first, rows.end);
    round.Rank(counts[warp]);
    __syncthreads();
    uint32_t in_round = 0;
#pragma unroll
    for (BinCounts& of_warp : counts) {
      const uint32_t own = of_warp.of_two[thread];
      of_warp.of_two[thread] = in_round;
      in_round += own;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRowsOfLane; ++i) {
      if (!round.is_row[i]) continue;
      const int own = round.digit[i];
      const int32_t place = next[own] + counts[warp].of_bin[own] + round.rank[i];
      args.keys_after[digit % 2][place] = round.key[i];
      args.rows_after[digit % 2][place] = round.row[i];
      if (digit + 1 == args.digits) continue;
      int32_t* const arriving = CountsOf(args, digit + 1, place >> args.tile_bits);
      atomicAdd(&arriving[DigitOf(args, round.key[i], digit + 1)], 1);
    }
    __syncthreads();
    next[2 * thread] += static_cast<int32_t>(in_round & 0xFFFFU);
    next[2 * thread + 1] += static_cast<int32_t>(in_round >> 16);
  }
}

}  // namespace

absl::StatusOr<TokenOrder> OrderByToken(const ExecutionContext& context, const TensorView& tokens,
                                        int64_t vocabulary, const EmbeddingPart& part) {
  const int64_t rows = tokens.dim(0);
  OrderArgs args = {.tokens = tokens.data<int32_t>(),
                    .rows = static_cast<int32_t>(rows),
                    .vocabulary = static_cast<int32_t>(vocabulary),
                    .first_token = static_cast<int32_t>(part.first_token),
                    .whole_vocabulary = static_cast<int32_t>(part.vocabulary),
                    .tile_bits = kRoundBits,
                    .fault = context.cuda->fault()};
  while (CeilDivide(rows, int64_t{1} << args.tile_bits) > kMostTiles) ++args.tile_bits;
  args.tiles = static_cast<int>(CeilDivide(rows, int64_t{1} << args.tile_bits));
  const int bits = std::bit_width(static_cast<uint64_t>(vocabulary));
  args.digits = static_cast<int>(CeilDivide(bits, kDigitBits));
  args.digit_bits = static_cast<int>(CeilDivide(bits, args.digits));
  args.counts = context.arena->Array<int32_t>(int64_t{args.digits} * args.tiles * kBins);
  for (int i = 0; i < 2; ++i) {
    args.keys_after[i] = context.arena->Array<uint32_t>(rows);
    args.rows_after[i] = context.arena->Array<int32_t>(rows);
  }
  RETURN_IF_ERROR(Launch(context, "OrderByToken", CountKernel,
                         {.grid = {args.tiles}, .block = kThreads}, args));
  for (int digit = 0; digit < args.digits; ++digit) {
    RETURN_IF_ERROR(Launch(context, "OrderByToken", PlaceKernel,
                           {.grid = {args.tiles}, .block = kThreads}, args, digit));
  }
  const int last = (args.digits - 1) % 2;
  return TokenOrder{args.keys_after[last], args.rows_after[last]};
}

}  // namespace salamander::cuda
