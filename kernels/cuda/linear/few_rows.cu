// result [M, N] = scale * a [M, K] b[N, K]^T (+ result) for M <= 8, by tensor cores with the roles
// swapped: b gives the 16 rows of a tile, a its 8 columns, so that no arithmetic is spent on rows
// that are not there.
//   A block takes 16 rows of b. Its warps share K: of each 256 elements a warp takes 32, a lane 8
//   of
// them in two rows of b and one of a, which serve two tiles of 16 in an order of K that differs
// from memory's and does not matter to a sum. A lane copies what it alone will read into shared
// memory, kStages turns ahead and without a barrier: blocks are few where N is small, and registers
// would hold too little on its way. The warps' sums are added in order at the end.
#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear/few_rows.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace salamander::cuda {
namespace {

constexpr int kMostRows = 8;
constexpr int kTileRows = 16;  // of b
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTurn = 4 * kLanes;  // elements of K that a warp takes at once
constexpr int kStages = 4;
constexpr int kVectors = 3;  // that a lane copies for a turn: of two rows of b, and of one of a

struct DeviceArgs {
  const BFloat16* a;  // [M, K]
  const BFloat16* b;  // [N, K]
  int rows;           // M
  int64_t n, k;
  float scale;
  bool accumulate;
};

__device__ float ToFloat(float value) {
  return value;
}
__device__ float ToFloat(BFloat16 value) {
  return __bfloat162float(value);
}
__device__ void Assign(float value, float& result) {
  result = value;
}
__device__ void Assign(float value, BFloat16& result) {
  result = __float2bfloat16(value);
}

// Grid: one block per kTileRows rows of b. Block: kWarps warps.
template <typename Result>
__global__ void __launch_bounds__(kThreads)
    FewRowsKernel(const __grid_constant__ DeviceArgs args, Result* result) {
  __shared__ Packed stages[kStages][kVectors][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp, row = thread % kWarp / 4;
  const int64_t first = int64_t{blockIdx.x} * kTileRows;
  // Rows that are not there: of b the last one again, whose sums are not written; of a zeros.
  const BFloat16* const low = args.b + min(first + row, args.n - 1) * args.k;
  const BFloat16* const high = args.b + min(first + row + 8, args.n - 1) * args.k;
  const bool has_a = row < args.rows;
  const BFloat16* const a = args.a + (has_a ? row : 0) * args.k;

  int64_t next = warp * kTurn + thread % 4 * kLanes;
  const auto fetch = [&](int stage) {
    const bool holds = next < args.k;
    const int64_t at = holds ? next : 0;
    CopyAsync(SharedAddress(&stages[stage][0][thread]), low + at, holds);
    CopyAsync(SharedAddress(&stages[stage][1][thread]), high + at, holds);
    CopyAsync(SharedAddress(&stages[stage][2][thread]), a + at, holds && has_a);
    CommitCopies();
    next += kWarps * kTurn;
  };
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) fetch(stage);

  float sums[4] = {};
  int stage = 0;
  for (int64_t turn = 0; turn < args.k; turn += kWarps * kTurn) {
    WaitForCopies<kStages - 1>();
    const Packed l = stages[stage][0][thread], h = stages[stage][1][thread];
    const Packed x = stages[stage][2][thread];
    MultiplyAdd(sums, {l.x, h.x, l.y, h.y}, x.x, x.y);
    MultiplyAdd(sums, {l.z, h.z, l.w, h.w}, x.z, x.w);
    fetch(stage);
    stage = (stage + 1) % kStages;
  }

  WaitForCopies<0>();
  __syncthreads();  // the warps' sums lie where copies were, [kWarps, kMostRows, kTileRows]
  auto* const parts = reinterpret_cast<float*>(stages);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int column = thread % 4 * 2 + i % 2;
    parts[(warp * kMostRows + column) * kTileRows + row + i / 2 * 8] = sums[i];
  }
  __syncthreads();
  const int m = thread / kTileRows;
  const int64_t column = first + thread % kTileRows;
  if (m >= args.rows || column >= args.n) return;
  float sum = 0.0F;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += parts[w * kMostRows * kTileRows + thread];
  sum *= args.scale;
  Result& place = result[m * args.n + column];
  if (args.accumulate) sum += ToFloat(place);
  Assign(sum, place);
}

template <typename Result>
absl::Status LaunchOf(const ExecutionContext& context, const DeviceArgs& args, void* result) {
  return Launch(context, "FewRowsKernel", FewRowsKernel<Result>,
                {.grid = {CeilDivide(args.n, kTileRows)}, .block = kThreads}, args,
                static_cast<Result*>(result));
}

}  // namespace

bool IsOfFewRows(const Product& product) {
  const int64_t rows = product.result.dim(0);
  return rows <= kMostRows && !product.transpose_a && product.transpose_b &&
         product.a.size() / rows % kLanes == 0 && AreAligned({product.a.raw(), product.b.raw()});
}

absl::Status RunFewRows(const ExecutionContext& context, const Product& product) {
  const int64_t rows = product.result.dim(0);
  const DeviceArgs args{.a = BFloat16Data(product.a),
                        .b = BFloat16Data(product.b),
                        .rows = static_cast<int>(rows),
                        .n = product.result.row_size(),
                        .k = product.a.size() / rows,
                        .scale = static_cast<float>(product.scale),
                        .accumulate = product.accumulate};
  if (product.result.dtype() == DType::kFloat32) {
    return LaunchOf<float>(context, args, product.result.raw());
  }
  return LaunchOf<BFloat16>(context, args, product.result.raw());
}

}  // namespace salamander::cuda
