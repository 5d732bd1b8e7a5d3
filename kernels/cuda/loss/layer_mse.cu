// One pass over memory. Each thread keeps its own sums in fp64 over the rows of its block; a block
// leaves four partial sums, and a second kernel adds the blocks in order.
#include <algorithm>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/layer_mse.h"

namespace salamander::cuda {
namespace {

constexpr int kSums = 4;  // of (y - target)^2, target^2, y * target, y^2

struct DeviceArgs {
  const BFloat16 *output, *target;  // [rows, width]
  const float* row_weights;         // [rows] or null
  BFloat16* d_output;               // [rows, width] or null
  double* partials;                 // [blocks, kSums]
  int64_t rows, width, rows_per_block;
  int threads_per_row;
  double gradient_scale;
  bool is_aligned;
};

// Adds the row's sums over this thread's columns and writes their gradient.
__device__ void AddRow(const DeviceArgs& args, int64_t row, int column, double (&sums)[kSums]) {
  const int64_t at = row * args.width;
  const float weight = args.row_weights == nullptr ? 1.0F : args.row_weights[row];
  const auto factor = static_cast<float>(2.0 * args.gradient_scale * static_cast<double>(weight));
  const int stride = args.threads_per_row * kLanes;
  double of_row[kSums] = {};
#pragma unroll 2
  for (int64_t c = column; c < args.width; c += stride) {
    float dy[kLanes] = {};
    if (weight != 0.0F) {
      float y[kLanes], target[kLanes];
      Unpack(LoadPacked(args.output + at, c, args.width, args.is_aligned), y);
      Unpack(LoadPacked(args.target + at, c, args.width, args.is_aligned), target);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        dy[i] = factor * (y[i] - target[i]);
        const auto a = static_cast<double>(y[i]), b = static_cast<double>(target[i]);
        of_row[0] += (a - b) * (a - b);
        of_row[1] += b * b;
        of_row[2] += a * b;
        of_row[3] += a * a;
      }
    }
    if (args.d_output != nullptr) {
      StorePacked(PackEight(dy), args.d_output + at, c, args.width, args.is_aligned);
    }
  }
#pragma unroll
  for (int i = 0; i < kSums; ++i) sums[i] += static_cast<double>(weight) * of_row[i];
}

// Grid: one block per rows_per_block rows. Block: threads_per_row threads to a row, rows in turn.
__global__ void __launch_bounds__(kRowThreads)
    LayerMseKernel(const __grid_constant__ DeviceArgs args) {
  __shared__ double scratch[kSums][kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % args.threads_per_row * kLanes;
  const int64_t first_row = blockIdx.x * args.rows_per_block;
  const int64_t end_row = min(args.rows, first_row + args.rows_per_block);
  double sums[kSums] = {};
  for (int64_t row = first_row + thread / args.threads_per_row; row < end_row;
       row += kRowThreads / args.threads_per_row) {
    AddRow(args, row, column, sums);
  }
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const double sum = BlockSum(sums[i], scratch[i]);
    if (thread == 0) args.partials[int64_t{blockIdx.x} * kSums + i] = sum;
  }
}

// One block, a warp to each sum: a lane adds every 32nd partial, the lanes are added in order.
// loss_sum [1], moments [kSums - 1] or null.
__global__ void __launch_bounds__(kSums* kWarp)
    AddSumsKernel(const double* partials, int64_t count, double* loss_sum, double* moments) {
  const int which = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double sum = 0.0;
#pragma unroll 8
  for (int64_t p = lane; p < count; p += kWarp) sum += partials[p * kSums + which];
  sum = WarpSum(sum);
  if (lane != 0) return;
  if (which == 0) *loss_sum += sum;
  if (which > 0 && moments != nullptr) moments[which - 1] += sum;
}

// By the shape alone, so that a sum repeats on any GPU.
constexpr int64_t kBlocks = 2048;

}  // namespace

absl::Status LayerMse(const ExecutionContext& context, const LayerMseArgs& args) {
  if (args.output.size() == 0) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  DeviceArgs device{.output = BFloat16Data(args.output),
                    .target = BFloat16Data(args.target),
                    .row_weights = DataOrNull<float>(args.row_weights),
                    .d_output = BFloat16Data(args.d_output),
                    .rows = args.output.dim(0),
                    .width = args.output.row_size(),
                    .threads_per_row = ThreadsPerRow(args.output.row_size()),
                    .gradient_scale = args.gradient_scale};
  device.rows_per_block =
      std::max<int64_t>(kRowThreads / device.threads_per_row, CeilDivide(device.rows, kBlocks));
  device.is_aligned =
      device.width % kLanes == 0 && AreAligned({device.output, device.target, device.d_output});
  const int64_t blocks = CeilDivide(device.rows, device.rows_per_block);
  device.partials = context.arena->Array<double>(blocks * kSums);
  RETURN_IF_ERROR(Launch(context, "LayerMse", LayerMseKernel,
                         {.grid = {blocks}, .block = kRowThreads}, device));
  return Launch(context, "LayerMse", AddSumsKernel, {.grid = {1}, .block = kSums * kWarp},
                device.partials, blocks, args.loss_sum.data<double>(),
                DataOrNull<double>(args.moments));
}

}  // namespace salamander::cuda
