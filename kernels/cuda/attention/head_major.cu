// A transposition by tiles in shared memory, so that both sides are read and written in whole
// lines.
#include <cstdint>

#include "kernels/cuda/attention/head_major.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {
namespace {

// Grid: x over tiles of 32 tokens, y over tiles of 32 heads. Block: 32 x 8, each thread four rows.
__global__ void HeadMajorKernel(const float* token_major, int64_t tokens, int64_t heads,
                                float* head_major) {
  __shared__ float tile[kWarp][kWarp + 1];  // a column more: no bank conflict by columns
  const int64_t first_token = int64_t{blockIdx.x} * kWarp, first_head = int64_t{blockIdx.y} * kWarp;
  for (int row = static_cast<int>(threadIdx.y); row < kWarp; row += static_cast<int>(blockDim.y)) {
    const int64_t token = first_token + row, head = first_head + threadIdx.x;
    if (token < tokens && head < heads) tile[row][threadIdx.x] = token_major[token * heads + head];
  }
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.y); row < kWarp; row += static_cast<int>(blockDim.y)) {
    const int64_t token = first_token + threadIdx.x, head = first_head + row;
    if (token < tokens && head < heads) head_major[head * tokens + token] = tile[threadIdx.x][row];
  }
}

}  // namespace

absl::Status CopyHeadMajor(const ExecutionContext& context, const TensorView& token_major,
                           const TensorView& head_major) {
  const int64_t tokens = token_major.dim(0), heads = token_major.row_size();
  const Grid grid = {CeilDivide(tokens, kWarp), CeilDivide(heads, kWarp)};
  return Launch(context, "HeadMajor", HeadMajorKernel, {.grid = grid, .block = dim3(kWarp, 8)},
                token_major.data<float>(), tokens, heads, head_major.data<float>());
}

}  // namespace salamander::cuda
