// A thread adds every 32nd partial of its column, in order; the 32 results of a column are added by
// one thread, in order.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows/column_sums.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {
namespace {

constexpr int kStrands = 32;  // threads to a column

// Grid: one block per 32 columns. Block: 32 columns by kStrands.
__global__ void __launch_bounds__(kWarp* kStrands)
    ColumnSumsKernel(const float* partials, int64_t count, int64_t width, float* sums) {
  __shared__ float strands[kStrands][kWarp];
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  float sum = 0.0F;
  if (column < width) {
#pragma unroll 8
    for (int64_t p = threadIdx.y; p < count; p += kStrands) sum += partials[p * width + column];
  }
  strands[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  float total = 0.0F;
#pragma unroll
  for (int strand = 0; strand < kStrands; ++strand) total += strands[strand][threadIdx.x];
  sums[column] += total;
}

}  // namespace

absl::Status AddColumnSums(const ExecutionContext& context, const float* partials, int64_t count,
                           int64_t width, float* sums) {
  const int64_t blocks = CeilDivide(width, kWarp);
  return Launch(context, "ColumnSumsKernel", ColumnSumsKernel,
                {.grid = {blocks}, .block = dim3(kWarp, kStrands)}, partials, count, width, sums);
}

}  // namespace salamander::cuda
