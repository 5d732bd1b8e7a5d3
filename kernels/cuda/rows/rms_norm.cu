// Formulas in kernels/rms_norm.h. A row lives in the registers of the threads that share it,
// between its statistic and its output: one pass over memory. The forward normalises h as it is
// stored, rounded to bf16, so that the backward differentiates what the forward computed. The
// backward's threads keep their columns' part of d_weight in registers over the rows of a slice; a
// second kernel adds the slices.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/rows/column_sums.h"
#include "kernels/rms_norm.h"

namespace salamander::cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxVectors = 2;  // of a row, to a thread
constexpr int64_t kMaxWidth = int64_t{kMaxThreads} * kMaxVectors * kLanes;
constexpr int64_t kForwardNarrow = 2048;  // up to here one vector to a thread: blocks stay small

absl::Status CheckWidth(const char* op, int64_t width) {
  if (width <= kMaxWidth) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(op, ": rows of ", width,
                                               " elements on CUDA; it holds a row of at most ",
                                               kMaxWidth, " in registers, use device: cpu"));
}

struct ForwardArgs {
  const BFloat16 *residual, *branch;  // [rows, width]; branch may be null
  const BFloat16* weight;             // [width]
  BFloat16 *hidden, *output;          // [rows, width]
  float* inverse_rms;                 // [rows]
  const float* squares;               // [rows] over all parts of a split row, or null
  int64_t rows;
  int width;
  int whole_width;  // of a split row, else `width`
  float branch_scale, epsilon;
};

// residual + scale * branch, rounded.
__device__ Packed AddScaled(const Packed& residual, float scale, const Packed& branch) {
  float sum[kLanes], added[kLanes];
  Unpack(residual, sum);
  Unpack(branch, added);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) sum[i] += scale * added[i];
  return PackEight(sum);
}

// Grid: one block per RowBlock.rows rows. Block: a RowBlock; a thread's vectors lie a row's threads
// apart.
template <int kVectors, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    ForwardKernel(const __grid_constant__ ForwardArgs args) {
  __shared__ float scratch[kWarp];
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= args.rows) return;
  const int64_t at = row * args.width;
  const auto column_of = [](int v) {
    return static_cast<int>(v * blockDim.x + threadIdx.x) * kLanes;
  };
  Packed hidden[kVectors], branch[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    hidden[v] = branch[v] = {};
    if (column_of(v) >= args.width) continue;
    hidden[v] = LoadPacked(args.residual + at, column_of(v), args.width, kAligned);
    if (args.branch == nullptr) continue;
    branch[v] = LoadPacked(args.branch + at, column_of(v), args.width, kAligned);
  }
  float squares = 0.0F;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (args.branch != nullptr) {
      hidden[v] = AddScaled(hidden[v], args.branch_scale, branch[v]);
      if (column_of(v) < args.width) {
        StorePacked(hidden[v], args.hidden + at, column_of(v), args.width, kAligned);
      }
    }
    float h[kLanes];
    Unpack(hidden[v], h);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) squares += h[i] * h[i];
  }
  const float total = args.squares == nullptr ? RowSum(squares, scratch) : args.squares[row];
  const float mean = total / static_cast<float>(args.whole_width);
  const float r = rsqrtf(mean + args.epsilon);
  if (threadIdx.x == 0) args.inverse_rms[row] = r;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (column_of(v) >= args.width) continue;
    float h[kLanes], weight[kLanes];
    Unpack(hidden[v], h);
    Unpack(LoadPacked(args.weight, column_of(v), args.width, kAligned), weight);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) h[i] *= r * weight[i];
    StorePacked(PackEight(h), args.output + at, column_of(v), args.width, kAligned);
  }
}

struct BackwardArgs {
  const BFloat16* hidden;           // [rows, width]
  const BFloat16* weight;           // [width]
  const float* inverse_rms;         // [rows]
  const BFloat16* d_output;         // [rows, width]
  const BFloat16* d_hidden;         // [rows, width] or null
  BFloat16 *d_residual, *d_branch;  // [rows, width] or null
  float* partials;                  // [slices, width] or null
  const float* dots;                // [rows] over all parts of a split row, or null
  int64_t rows, rows_per_slice, slices;
  int width;
  int whole_width;  // of a split row, else `width`
  float branch_scale;
};

template <int kVectors, bool kAligned>
struct BackwardRow {
  Packed hidden[kVectors], d_output[kVectors];
  float r;

  __device__ void Load(const BackwardArgs& args, int64_t row) {
    const int64_t at = row * args.width;
    r = args.inverse_rms[row];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = static_cast<int>(v * blockDim.x + threadIdx.x) * kLanes;
      hidden[v] = d_output[v] = {};
      if (column >= args.width) continue;
      hidden[v] = LoadPacked(args.hidden + at, column, args.width, kAligned);
      d_output[v] = LoadPacked(args.d_output + at, column, args.width, kAligned);
    }
  }
};

// Grid: one block per RowBlock.rows slices of rows_per_slice rows. Block: a RowBlock of at most
// kThreads threads. The next row is on its way while a row is worked on, where registers allow;
// what is needed only behind the row's barrier comes without.
template <int kVectors, int kThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads, kVectors == 1 ? 2 : 1)
    BackwardKernel(const __grid_constant__ BackwardArgs args) {
  constexpr bool kPrefetch = kThreads < kMaxThreads;
  __shared__ float scratch[2][kWarp];  // in turn, so that a row needs one barrier
  const int64_t slice = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (slice >= args.slices) return;
  const int64_t first_row = slice * args.rows_per_slice;
  const int64_t end_row = min(args.rows, first_row + args.rows_per_slice);
  const auto column_of = [](int v) {
    return static_cast<int>(v * blockDim.x + threadIdx.x) * kLanes;
  };
  const bool wants_input = args.d_residual != nullptr || args.d_branch != nullptr;

  Packed weights[kVectors];
  float d_weight[kVectors][kLanes] = {};
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    weights[v] = {};
    if (column_of(v) >= args.width) continue;
    weights[v] = LoadPacked(args.weight, column_of(v), args.width, kAligned);
  }
  BackwardRow<kVectors, kAligned> current, next;
  if (kPrefetch && first_row < end_row) next.Load(args, first_row);
  for (int64_t row = first_row; row < end_row; ++row) {
    if constexpr (kPrefetch) {
      current = next;
      if (row + 1 < end_row) next.Load(args, row + 1);
    } else {
      current.Load(args, row);
    }
    const int64_t at = row * args.width;
    Packed d_hidden[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      d_hidden[v] = {};
      if (args.d_hidden == nullptr || column_of(v) >= args.width) continue;
      d_hidden[v] = LoadPacked(args.d_hidden + at, column_of(v), args.width, kAligned);
    }
    const float r = current.r;
    float dot = 0.0F;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      float h[kLanes], dy[kLanes], weight[kLanes];
      Unpack(current.hidden[v], h);
      Unpack(current.d_output[v], dy);
      Unpack(weights[v], weight);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const float product = h[i] * dy[i];
        d_weight[v][i] += product * r;
        dot += product * weight[i];
      }
    }
    if (!wants_input) continue;
    const float total = args.dots == nullptr ? RowSum(dot, scratch[row % 2]) : args.dots[row];
    const float mean = total / static_cast<float>(args.whole_width);
    const float pull = mean * r * r;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = column_of(v);
      if (column >= args.width) continue;
      float h[kLanes], dy[kLanes], weight[kLanes], elsewhere[kLanes];
      Unpack(current.hidden[v], h);
      Unpack(current.d_output[v], dy);
      Unpack(weights[v], weight);
      Unpack(d_hidden[v], elsewhere);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        h[i] = elsewhere[i] + r * (weight[i] * dy[i] - h[i] * pull);
      }
      if (args.d_residual != nullptr) {
        StorePacked(PackEight(h), args.d_residual + at, column, args.width, kAligned);
      }
      if (args.d_branch == nullptr) continue;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) h[i] *= args.branch_scale;
      StorePacked(PackEight(h), args.d_branch + at, column, args.width, kAligned);
    }
  }
  if (args.partials == nullptr) return;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const int column = column_of(v) + i;
      if (column < args.width) args.partials[slice * args.width + column] = d_weight[v][i];
    }
  }
}

struct SumsArgs {
  const BFloat16* hidden;    // [rows, width]
  const BFloat16* weight;    // [width] or null
  const BFloat16* d_output;  // [rows, width] or null
  float* sums;               // [rows]
  int64_t rows;
  int width;
  bool is_aligned;
};

constexpr int kSumsThreads = 256;
constexpr int kSumsRows = kSumsThreads / kWarp;

// Grid: one block per kSumsRows rows. A warp passes over a row.
__global__ void __launch_bounds__(kSumsThreads) SumsKernel(const __grid_constant__ SumsArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * kSumsRows + threadIdx.x / kWarp;
  if (row >= args.rows) return;
  const int64_t at = row * args.width;
  float sum = 0.0F;
  for (int column = lane * kLanes; column < args.width; column += kWarp * kLanes) {
    float h[kLanes], dy[kLanes], weight[kLanes];
    Unpack(LoadPacked(args.hidden + at, column, args.width, args.is_aligned), h);
    if (args.d_output == nullptr) {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) sum += h[i] * h[i];
      continue;
    }
    Unpack(LoadPacked(args.d_output + at, column, args.width, args.is_aligned), dy);
    Unpack(LoadPacked(args.weight, column, args.width, args.is_aligned), weight);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) sum += h[i] * dy[i] * weight[i];
  }
  sum = WarpSum(sum);
  if (lane == 0) args.sums[row] = sum;
}

int WholeWidth(const SplitRows& split, int64_t width) {
  return static_cast<int>(split.sums.empty() ? width : split.width);
}

// Rows are cut into slices by the shape alone, so that a sum repeats on any GPU: at width 4096,
// eight for each multiprocessor of an H100, which takes two at a time. Fewer leave some idle at the
// end, more write partial sums for longer than that costs. Narrower rows get more, wider ones
// fewer.
constexpr int64_t kSliceElements = int64_t{8} * 132 * 4096;
constexpr int64_t kLeastRowsPerSlice = 8;  // keeps the partial sums small beside the rows

int64_t RowsPerSlice(int64_t rows, int64_t row_elements) {
  return std::max(kLeastRowsPerSlice, CeilDivide(rows, kSliceElements / row_elements));
}

// Two blocks of 512 threads share a multiprocessor, or one with two vectors to a thread; the widest
// rows need twice the threads and leave them no registers for a row on its way.
struct BackwardPlan {
  void (*kernel)(BackwardArgs);
  RowBlock block;
  int vectors;
};

BackwardPlan PlanBackward(int64_t width, bool is_aligned) {
  constexpr int kThreads = kMaxThreads / 2;
  if (width <= int64_t{kThreads} * kLanes) {
    return {is_aligned ? BackwardKernel<1, kThreads, true> : BackwardKernel<1, kThreads, false>,
            RowBlock(width, 1), 1};
  }
  if (width <= int64_t{kThreads} * kMaxVectors * kLanes) {
    return {is_aligned ? BackwardKernel<kMaxVectors, kThreads, true>
                       : BackwardKernel<kMaxVectors, kThreads, false>,
            RowBlock(width, kMaxVectors), kMaxVectors};
  }
  return {is_aligned ? BackwardKernel<kMaxVectors, kMaxThreads, true>
                     : BackwardKernel<kMaxVectors, kMaxThreads, false>,
          RowBlock(width, kMaxVectors), kMaxVectors};
}

}  // namespace

absl::Status RmsNormForward(const ExecutionContext& context, const RmsNormForwardArgs& args) {
  const int64_t rows = args.residual.dim(0), width = args.residual.row_size();
  RETURN_IF_ERROR(CheckWidth("RmsNormForward", width));
  if (args.residual.size() == 0) return absl::OkStatus();
  ForwardArgs device{.residual = BFloat16Data(args.residual),
                     .branch = BFloat16Data(args.branch),
                     .weight = BFloat16Data(args.weight),
                     .hidden = BFloat16Data(args.hidden),
                     .output = BFloat16Data(args.output),
                     .inverse_rms = args.inverse_rms.data<float>(),
                     .squares = DataOrNull<float>(args.split.sums),
                     .rows = rows,
                     .width = static_cast<int>(width),
                     .whole_width = WholeWidth(args.split, width),
                     .branch_scale = static_cast<float>(args.branch_scale),
                     .epsilon = static_cast<float>(args.epsilon)};
  const bool is_aligned =
      width % kLanes == 0 &&
      AreAligned({device.residual, device.branch, device.weight, device.hidden, device.output});
  const bool is_narrow = width <= kForwardNarrow;
  const RowBlock block(width, is_narrow ? 1 : kMaxVectors);
  const int64_t blocks = CeilDivide(rows, block.rows);
  const auto kernel =
      is_narrow
          ? (is_aligned ? ForwardKernel<1, true> : ForwardKernel<1, false>)
          : (is_aligned ? ForwardKernel<kMaxVectors, true> : ForwardKernel<kMaxVectors, false>);
  return Launch(context, "RmsNormForward", kernel, {.grid = {blocks}, .block = block.dims()},
                device);
}

absl::Status RmsNormBackward(const ExecutionContext& context, const RmsNormBackwardArgs& args) {
  const int64_t rows = args.hidden.dim(0), width = args.hidden.row_size();
  RETURN_IF_ERROR(CheckWidth("RmsNormBackward", width));
  if (args.hidden.size() == 0) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  BackwardArgs device{.hidden = BFloat16Data(args.hidden),
                      .weight = BFloat16Data(args.weight),
                      .inverse_rms = args.inverse_rms.data<float>(),
                      .d_output = BFloat16Data(args.d_output),
                      .d_hidden = BFloat16Data(args.d_hidden),
                      .d_residual = BFloat16Data(args.d_residual),
                      .d_branch = BFloat16Data(args.d_branch),
                      .dots = DataOrNull<float>(args.split.sums),
                      .rows = rows,
                      .width = static_cast<int>(width),
                      .whole_width = WholeWidth(args.split, width),
                      .branch_scale = static_cast<float>(args.branch_scale)};
  const bool is_aligned =
      width % kLanes == 0 && AreAligned({device.hidden, device.weight, device.d_output,
                                         device.d_hidden, device.d_residual, device.d_branch});
  const BackwardPlan plan = PlanBackward(width, is_aligned);
  device.rows_per_slice = RowsPerSlice(rows, int64_t{plan.block.threads} * plan.vectors * kLanes);
  device.slices = CeilDivide(rows, device.rows_per_slice);
  if (!args.d_weight.empty()) device.partials = context.arena->Array<float>(device.slices * width);
  const int64_t blocks = CeilDivide(device.slices, plan.block.rows);
  RETURN_IF_ERROR(Launch(context, "RmsNormBackward", plan.kernel,
                         {.grid = {blocks}, .block = plan.block.dims()}, device));
  if (args.d_weight.empty()) return absl::OkStatus();
  return AddColumnSums(context, device.partials, device.slices, width, args.d_weight.data<float>());
}

absl::Status RmsNormSums(const ExecutionContext& context, const RmsNormSumsArgs& args) {
  if (args.hidden.size() == 0) return absl::OkStatus();
  const int64_t rows = args.hidden.dim(0), width = args.hidden.row_size();
  SumsArgs device{.hidden = BFloat16Data(args.hidden),
                  .weight = BFloat16Data(args.weight),
                  .d_output = BFloat16Data(args.d_output),
                  .sums = args.sums.data<float>(),
                  .rows = rows,
                  .width = static_cast<int>(width)};
  device.is_aligned =
      width % kLanes == 0 && AreAligned({device.hidden, device.weight, device.d_output});
  return Launch(context, "RmsNormSums", SumsKernel,
                {.grid = {CeilDivide(rows, kSumsRows)}, .block = kSumsThreads}, device);
}

}  // namespace salamander::cuda
