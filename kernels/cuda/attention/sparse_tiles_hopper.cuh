// What the query-stationary kernels of block attention on Hopper share: wide row tiles, and the
// ring of key pieces that one warp fills and the computing warpgroups empty.
//
// A block of threads is one loading warpgroup, of which one warp works, and two computing ones. It
// takes row tiles of 128 rows of one KV head (RowTile): computing warpgroup w owns rows 64 w to
// 64 w + 63, each of its warps 16 of them, which with 16 query heads to a KV head are one query.
// The loading warp steps through the pieces of keys that some query of the tile reads (BlockWalk)
// and has each piece's keys and values copied into a stage of the ring; every warpgroup takes each
// stage in turn, and skips it where none of its queries reads the piece. The loading warp goes on
// to the next tile while the others end theirs.
//
// Shared memory of a stage: keys [64, kD], then values [64, kD], each as kD / 64 panels of
// warpgroup.cuh. Then for all stages the piece and two barriers: `full` (the loading thread, and
// the bytes) and `empty` (one thread of every computing warp).
#ifndef KERNELS_CUDA_ATTENTION_SPARSE_TILES_HOPPER_CUH_
#define KERNELS_CUDA_ATTENTION_SPARSE_TILES_HOPPER_CUH_

#include <cstdint>

#include <cuda.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention_hopper.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda {

constexpr int kComputingWarpgroups = kWideTileRows / kTileRows;
constexpr int kSparseThreads = (kComputingWarpgroups + 1) * kWarpgroup;
constexpr int kLeastGroup = kWideTileRows / 64;  // BlockWalk follows up to 64 queries

// Of a thread, of the 168 that each of the three warpgroups starts with.
constexpr int kLoadRegisters = 40;
constexpr int kComputeRegisters = 232;

struct SparseTileArgs {
  AttentionArgs attention;
  CUtensorMap keys, values;  // boxes of kPieceKeys rows
  int row_tiles;             // of all segments, for each KV head

  __host__ __device__ int items() const { return row_tiles * attention.key_heads; }
};

// A launch over the plan's segments; their list comes from the context's arena.
inline absl::StatusOr<SparseTileArgs> MakeSparseTileArgs(const ExecutionContext& context,
                                                         const BlockAttention& attention,
                                                         const AttentionArgs& args,
                                                         const WidePlan& plan) {
  SparseTileArgs tiles = {.attention = args, .row_tiles = static_cast<int>(plan.row_tiles)};
  ASSIGN_OR_RETURN(tiles.attention.segments,
                   UploadArray<SegmentPlan>(context, absl::MakeConstSpan(plan.segments)));
  tiles.attention.segment_count = static_cast<int>(plan.segments.size());
  ASSIGN_OR_RETURN(tiles.keys, MakePanelMap(attention.k, kPieceKeys));
  ASSIGN_OR_RETURN(tiles.values, MakePanelMap(attention.v, kPieceKeys));
  return tiles;
}

// Calls with `head_dim` as a constant. Requires: HopperServes.
template <typename Function>
absl::Status ForSparseColumns(int head_dim, const Function& function) {
  return head_dim == 64 ? function.template operator()<64>() : function.template operator()<128>();
}

// Where a walk round the ring stands.
struct RingPlace {
  int stage = 0, parity = 0;

  template <int kStages>
  __device__ void Advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// A piece in the ring; of no keys: the tile's end.
struct RingPiece : Piece {
  int warpgroups;  // bit w: warpgroup w has a query that reads it
};

template <int kD, int kStages>
class PieceRing {
 public:
  static constexpr uint32_t kPanelBytes = kPieceKeys * kPanelRowBytes;
  static constexpr int kTileBytes = kPieceKeys * kD * 2;
  static constexpr int kBytes =
      kStages * static_cast<int>(2 * kTileBytes + sizeof(RingPiece) + 2 * sizeof(uint64_t));

  // `memory` is 1024-byte aligned.
  __device__ explicit PieceRing(char* memory)
      : memory_(memory),
        address_(SharedAddress(memory)),
        pieces_(reinterpret_cast<RingPiece*>(memory + kStages * 2 * kTileBytes)),
        barriers_(reinterpret_cast<uint64_t*>(pieces_ + kStages)) {}

  // By one thread, before a __syncthreads().
  __device__ void Init() const {
    for (int stage = 0; stage < kStages; ++stage) {
      full(stage).Init(1);
      empty(stage).Init(kComputingWarpgroups * kWarpgroup / kWarp);
    }
    FenceBarriersForCopies();
  }

  // By computing warps: waits for the piece whose turn it is; and hands a stage back, once the
  // warp's products with it have ended.
  __device__ RingPiece Take(const RingPlace& place) const {
    full(place.stage).Wait(place.parity);
    return pieces_[place.stage];
  }
  __device__ void Release(int stage) const {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) empty(stage).Arrive();
  }

  __device__ uint32_t keys(int stage) const { return address_ + stage * 2 * kTileBytes; }
  __device__ uint32_t values(int stage) const { return keys(stage) + kTileBytes; }
  __device__ char* key_memory(int stage) const { return memory_ + stage * 2 * kTileBytes; }
  __device__ char* value_memory(int stage) const { return key_memory(stage) + kTileBytes; }
  __device__ RingPiece& piece(int stage) const { return pieces_[stage]; }
  __device__ uint64_t* full_barrier(int stage) const { return barriers_ + stage; }
  __device__ SharedBarrier full(int stage) const { return SharedBarrier(barriers_ + stage); }
  __device__ SharedBarrier empty(int stage) const {
    return SharedBarrier(barriers_ + kStages + stage);
  }

 private:
  char* memory_;
  uint32_t address_;
  RingPiece* pieces_;
  uint64_t* barriers_;
};

// An item is a row tile of a KV head: heads one after another, so that the keys and values in use
// at a time are few, and in a segment the last tiles, which read most, first.
struct SparseTile {
  SegmentPlan segment;
  RowTile rows;

  __device__ SparseTile(const SparseTileArgs& args, int item)
      : segment(SegmentOfItem(args.attention.segments, args.attention.segment_count,
                              item % args.row_tiles)),
        rows(args.attention, segment, static_cast<int>(item / args.row_tiles),
             CeilDivide(segment.query_count * args.attention.group, kWideTileRows) - 1 -
                 (item % args.row_tiles - segment.first_item),
             kWideTileRows) {}

  // Of row `row` of the tile, counted from the tile's first.
  __device__ int QueryOf(const SparseTileArgs& args, int row) const {
    return rows.Query(args.attention, row) - rows.first_query;
  }
  // Of the rows of a warpgroup, a bit each.
  __device__ uint64_t QueriesOf(const SparseTileArgs& args, int warpgroup) const {
    const int begin = warpgroup * kTileRows;
    if (begin >= rows.count) return 0;
    const int first = QueryOf(args, begin);
    const int last = QueryOf(args, min(begin + kTileRows, rows.count) - 1);
    return (~uint64_t{0} >> (63 - last + first)) << first;
  }
};

// By the loading warp: fills the stage's tile at `memory` with the first `count` rows at `source`,
// `stride` elements apart, then with zeros.
template <int kD>
__device__ void FillRows(const BFloat16* source, int stride, int count, char* memory) {
  constexpr int kChunks = kD / kLanes;
  constexpr int kPanelChunks = kPanelColumns / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int chunk = lane % kChunks;
  char* const panel = memory + chunk / kPanelChunks * kPieceKeys * kPanelRowBytes;
  for (int row = lane / kChunks; row < kPieceKeys; row += kWarp / kChunks) {
    const Packed values = row < count
                              ? *reinterpret_cast<const Packed*>(
                                    source + static_cast<int64_t>(row) * stride + chunk * kLanes)
                              : Packed{0, 0, 0, 0};
    *reinterpret_cast<Packed*>(panel + ChunkOffset<kPanelColumns>(row, chunk % kPanelChunks)) =
        values;
  }
}

// By the loading warp: the pieces of a tile, then one of no keys. A piece that reaches beyond the
// document is filled by hand: weights of 0 do not keep out what lies there.
template <int kD, int kStages>
__device__ void LoadPieces(const SparseTileArgs& args, const SparseTile& tile,
                           const PieceRing<kD, kStages>& ring, RingPlace& place) {
  const AttentionArgs& attention = args.attention;
  const int64_t key_count = tile.segment.key_count();
  const int head = tile.rows.key_head;
  const bool is_leader = threadIdx.x % kWarp == 0;
  static_assert(kComputingWarpgroups == 2);
  const uint64_t queries[2] = {tile.QueriesOf(args, 0), tile.QueriesOf(args, 1)};
  BlockWalk walk(attention, tile.segment, tile.rows, 0);
  for (bool has_piece = true; has_piece; place.Advance<kStages>()) {
    Piece piece;
    has_piece = walk.Next(piece);
    if (!has_piece) piece = {0, 0, 0};
    const int64_t row = tile.segment.key_begin + piece.begin;
    const bool is_whole = piece.begin + kPieceKeys <= key_count;
    const int stage = place.stage;
    ring.empty(stage).Wait(place.parity ^ 1);
    if (has_piece && !is_whole) {
      const int stride = attention.key_heads * kD;
      const int64_t offset = row * stride + head * kD;
      const auto count = static_cast<int>(key_count - piece.begin);
      FillRows<kD>(attention.k + offset, stride, count, ring.key_memory(stage));
      FillRows<kD>(attention.v + offset, stride, count, ring.value_memory(stage));
      FenceSharedForProducts();
      __syncwarp();
    }
    if (is_leader) {
      const int warpgroups =
          ((piece.readers & queries[0]) != 0 ? 1 : 0) | ((piece.readers & queries[1]) != 0 ? 2 : 0);
      ring.piece(stage) = RingPiece{piece, warpgroups};
      if (has_piece && is_whole) {
        uint64_t* const barrier = ring.full_barrier(stage);
        ArriveExpecting(barrier, 2 * ring.kTileBytes);
        CopyPanels(args.keys, static_cast<int>(row), head, ring.keys(stage), barrier);
        CopyPanels(args.values, static_cast<int>(row), head, ring.values(stage), barrier);
      } else {
        ring.full(stage).Arrive();
      }
    }
    __syncwarp();
  }
}

// The same value, which the compiler does not know to be: what follows from it is worked out where
// it is needed, and holds no registers before.
__device__ inline int Anew(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Row `half` (of 2) of the tile that a thread of computing warpgroup `warpgroup` holds.
__device__ inline int ThreadRow(int warpgroup, int half) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  return warpgroup * kTileRows + thread / kWarp * 16 + thread % kWarp / 4 + 8 * half;
}

// What the two rows of a thread of a computing warpgroup read. The tile is looked up wherever it is
// needed: registers are short.
struct ThreadRows {
  int query[2];  // of the tile
  int keys[2];   // that the row may see at most

  __device__ ThreadRows(const SparseTileArgs& args, int item, int warpgroup) {
    const SparseTile tile(args, item);
    for (int half = 0; half < 2; ++half) {
      const int row = ThreadRow(warpgroup, half);
      const bool is_row = row < tile.rows.count;
      query[half] = is_row ? tile.QueryOf(args, row) : 0;
      keys[half] = is_row ? static_cast<int>(tile.segment.first_position) + tile.rows.first_query +
                                query[half] + 1
                          : 0;
    }
  }

  // Of the keys of a piece, those that a row reads are its first.
  __device__ int Read(const Piece& piece, int half) const {
    const bool is_reader = (piece.readers >> query[half] & 1) != 0;
    return is_reader ? max(min(keys[half] - piece.begin, piece.count), 0) : 0;
  }
};

// A thread's share of the left operand of products over the kD columns of its rows, of `source`
// [T, H, D]; rows beyond the tile are zeros.
template <int kD>
__device__ void LoadLeftRows(const SparseTileArgs& args, int item, int warpgroup,
                             const BFloat16* source, uint32_t (&left)[kD / 16][4]) {
  const SparseTile tile(args, item);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = ThreadRow(warpgroup, half);
    const bool is_row = row < tile.rows.count;
    const int64_t index = tile.rows.Index(args.attention, tile.segment, is_row ? row : 0);
    const auto* const words = reinterpret_cast<const uint32_t*>(source + index * kD) + lane % 4;
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      left[step][half] = is_row ? words[step * 8] : 0;
      left[step][half + 2] = is_row ? words[step * 8 + 4] : 0;
    }
  }
}

template <int kCount>
__device__ void NegateLeft(uint32_t (&left)[kCount][4]) {
  constexpr uint32_t kSigns = 0x80008000U;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) left[i][j] ^= kSigns;
  }
}

// Descriptors of one operand differ by where it starts. The first is taken to be the same on all
// lanes, which keeps it, and what is added to it, out of the lanes' registers.
__device__ inline uint64_t OfWarp(uint64_t descriptor) {
  const auto low = static_cast<uint32_t>(descriptor);
  return (descriptor >> 32 << 32) | __shfl_sync(kFullMask, low, 0);
}
__device__ inline uint64_t Further(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

// Bytes from the first 16 columns of 64 rows in panels to those of step `step`.
__device__ constexpr uint32_t ColumnBytes(int step) {
  return step / 4 * kPieceKeys * kPanelRowBytes + step % 4 * 16 * 2;
}

// d = left rows', rows: 64 rows of kD columns in panels at `rows`.
template <int kD>
__device__ inline void MultiplyByRows(float (&d)[kPieceKeys / 8][4],
                                      const uint32_t (&left)[kD / 16][4], uint32_t rows) {
  const uint64_t right = OfWarp(AlongColumns(rows, 0, 0));
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    WarpgroupMultiplyAdd<false>(d, left[step], Further(right, ColumnBytes(step)), step > 0);
  }
}

// The same with 64 left rows in panels at `left`.
template <int kD>
__device__ inline void MultiplyByRows(float (&d)[kPieceKeys / 8][4], uint32_t left, uint32_t rows) {
  const uint64_t a = OfWarp(AlongColumns(left, 0, 0)), b = OfWarp(AlongColumns(rows, 0, 0));
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    const uint32_t bytes = ColumnBytes(step);
    WarpgroupMultiplyAdd<false>(d, Further(a, bytes), Further(b, bytes), step > 0);
  }
}

// d += weights rows, weights: 64 x 64 as left operands, rows: 64 rows of kD columns at `rows`.
template <int kD>
__device__ inline void AddWeighted(float (&d)[kD / 8][4],
                                   const uint32_t (&weights)[kPieceKeys / 16][4], uint32_t rows) {
  const uint64_t right = OfWarp(AlongRows(rows, 0, kPieceKeys * kPanelRowBytes));
#pragma unroll
  for (int step = 0; step < kPieceKeys / 16; ++step) {
    WarpgroupMultiplyAdd<true>(d, weights[step], Further(right, step * 16 * kPanelRowBytes), true);
  }
}

__device__ inline void AsLeftOperands(const float (&scores)[kPieceKeys / 8][4],
                                      uint32_t (&left)[kPieceKeys / 16][4]) {
#pragma unroll
  for (int step = 0; step < kPieceKeys / 16; ++step) {
    AsLeft(scores[2 * step], scores[2 * step + 1], left[step]);
  }
}

// A computing warpgroup's pass over the pieces of a tile that one of its queries reads:
//   out += W R   with R the rows of a piece at right(stage), W the weights that settle gives.
// The products that W is made of are multiplied ahead of W R of the piece before, so that W is made
// while a product runs; the other warpgroup fills what is left.
//
//   multiply(1)      | weigh(1)
//   multiply(2) W1 R1 | weigh(2)
//   ...                            Wn Rn
//
// multiply(stage) issues the first products, weigh(piece) reads them, and settle(weights) may touch
// `out`, too. The stage of a piece is held until its W R has ended. A warpgroup that skips so many
// pieces that the ring would run dry behind the one it holds takes that one's W R first.
template <int kD, int kStages, typename Right, typename Multiply, typename Weigh, typename Settle>
__device__ void ReadPieces(const PieceRing<kD, kStages>& ring, int warpgroup, RingPlace& place,
                           const Right& right, const Multiply& multiply, const Weigh& weigh,
                           const Settle& settle, float (&out)[kD / 8][4]) {
  constexpr int kNone = -1;
  int held = kNone;  // the stage whose rows `weights` are still to meet
  int skipped = 0;   // pieces since
  uint32_t weights[kPieceKeys / 16][4] = {};
  const auto finish_held = [&]() {
    FenceProducts();
    AddWeighted<kD>(out, weights, right(held));
    CommitProducts();
    WaitForProducts<0>();
    HoldProduct(out);
    ring.Release(held);
    held = kNone;
  };
  for (;; place.Advance<kStages>()) {
    const int stage = place.stage;
    const RingPiece piece = ring.Take(place);
    if (piece.count == 0) break;
    if ((piece.warpgroups >> warpgroup & 1) == 0) {
      ring.Release(stage);
      if (held == kNone || ++skipped < kStages - 1) continue;
      finish_held();
      SetZero(weights);
      continue;
    }
    FenceProducts();
    multiply(stage);
    CommitProducts();
    // Where no stage is held the weights are zero, and finite rows that they meet add nothing.
    AddWeighted<kD>(out, weights, right(held == kNone ? stage : held));
    CommitProducts();
    WaitForProducts<1>();
    weigh(piece);
    WaitForProducts<0>();
    HoldProduct(out);
    if (held != kNone) ring.Release(held);
    held = stage;
    skipped = 0;
    settle(weights);
  }
  ring.Release(place.stage);
  place.Advance<kStages>();
  if (held != kNone) finish_held();
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_SPARSE_TILES_HOPPER_CUH_
