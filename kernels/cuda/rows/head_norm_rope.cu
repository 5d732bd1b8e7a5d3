// Formulas in kernels/head_norm_rope.h. A head of one token (D elements) belongs to a group of
// lanes of one warp. A lane holds eight elements of the first half and the eight that the rotation
// pairs them with, so that norm and rotation pass once over memory, in registers. The backward's
// lanes keep their elements' part of d_weight in registers over the heads of a block; the groups of
// a block are added in shared memory, the blocks by a second kernel.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/rows/column_sums.h"
#include "kernels/head_norm_rope.h"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxDim = 2 * kWarp * kLanes;

struct DeviceArgs {
  const BFloat16* input;         // [T, H, D]; forward x, backward dy
  const BFloat16* normed;        // [T, H, D] the forward's x, for the backward of the norm
  const BFloat16* weight;        // [D] or null
  const float *cosines, *sines;  // [T, D/2] or null
  float* inverse_rms;            // [T, H] or null
  BFloat16* output;              // [T, H, D]; forward y, backward dx
  float* partials;               // [blocks, D] or null
  int64_t rows;                  // T * H
  int64_t rows_per_block;
  int heads, dim, half;  // half = ceil(D / 2): an odd D has a middle element and no rotation
  int lanes;             // of a group, a power of two
  float epsilon;
};

// The sum over a group's lanes, on each of them, in a fixed order.
__device__ float GroupSum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullMask, value, offset);
  }
  return value;
}

// The part of a head's row that a lane holds.
struct Pair {
  float first[kLanes], second[kLanes];  // elements d and d + half
};

template <bool kAligned>
__device__ Pair LoadPair(const BFloat16* row, int d, const DeviceArgs& args) {
  Pair pair;
  Unpack(LoadPacked(row, d, args.half, kAligned), pair.first);
  Unpack(LoadPacked(row + args.half, d, args.dim - args.half, kAligned), pair.second);
  return pair;
}

template <bool kAligned>
__device__ void StorePair(const Pair& pair, BFloat16* row, int d, const DeviceArgs& args) {
  StorePacked(PackEight(pair.first), row, d, args.half, kAligned);
  StorePacked(PackEight(pair.second), row + args.half, d, args.dim - args.half, kAligned);
}

// The angles of eight pairs; those past the half are zero.
template <bool kAligned>
__device__ void LoadAngles(const float* table, int d, int half, float (&values)[kLanes]) {
  if constexpr (kAligned) {
    const float4 low = *reinterpret_cast<const float4*>(table + d);
    const float4 high = *reinterpret_cast<const float4*>(table + d + 4);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) values[i] = d + i < half ? table[d + i] : 0.0F;
  }
}

// kDirection is 1, or -1 to turn back, which is the transpose.
template <bool kAligned, int kDirection>
__device__ void Rotate(const DeviceArgs& args, int64_t token, int d, Pair& pair) {
  float cosines[kLanes], sines[kLanes];
  const int64_t at = token * args.half;
  LoadAngles<kAligned>(args.cosines + at, d, args.half, cosines);
  LoadAngles<kAligned>(args.sines + at, d, args.half, sines);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    const float first = pair.first[i], second = pair.second[i];
    const float sine = kDirection * sines[i];
    pair.first[i] = first * cosines[i] - second * sine;
    pair.second[i] = second * cosines[i] + first * sine;
  }
}

// The norm forward and the rotation in either direction. Grid: one block per kThreads / lanes rows.
// Block: groups of `lanes` threads.
template <bool kAligned, int kDirection>
__global__ void __launch_bounds__(kThreads) ForwardKernel(const __grid_constant__ DeviceArgs args) {
  const int groups = kThreads / args.lanes;
  const int d = static_cast<int>(threadIdx.x) % args.lanes * kLanes;
  const int64_t row = int64_t{blockIdx.x} * groups + static_cast<int>(threadIdx.x) / args.lanes;
  const bool holds = row < args.rows && d < args.half;
  Pair x = {};
  if (holds) x = LoadPair<kAligned>(args.input + row * args.dim, d, args);
  if (args.weight != nullptr) {
    float squares = 0.0F;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      squares += x.first[i] * x.first[i] + x.second[i] * x.second[i];
    }
    const float mean = GroupSum(squares, args.lanes) / static_cast<float>(args.dim);
    const float r = rsqrtf(mean + args.epsilon);
    if (holds) {
      if (d == 0) args.inverse_rms[row] = r;
      const Pair weight = LoadPair<kAligned>(args.weight, d, args);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        x.first[i] *= r * weight.first[i];
        x.second[i] *= r * weight.second[i];
      }
    }
  }
  if (!holds) return;
  if (args.cosines != nullptr) Rotate<kAligned, kDirection>(args, row / args.heads, d, x);
  StorePair<kAligned>(x, args.output + row * args.dim, d, args);
}

// The backward where there is a norm. Grid: one block per rows_per_block rows, a multiple of its
// groups. Block: groups of `lanes` threads, each group taking every groups-th row.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads, 3)
    NormBackwardKernel(const __grid_constant__ DeviceArgs args) {
  __shared__ float sums[kThreads * 2 * kLanes];  // [groups, lanes, 2, 8]
  const int groups = kThreads / args.lanes;
  const int group = static_cast<int>(threadIdx.x) / args.lanes;
  const int d = static_cast<int>(threadIdx.x) % args.lanes * kLanes;
  const int64_t first_row = blockIdx.x * args.rows_per_block;
  const int64_t end_row = min(args.rows, first_row + args.rows_per_block);
  Pair d_weight = {};
  // All lanes of a warp take the same number of turns: they exchange sums.
  for (int64_t turn = first_row; turn < end_row; turn += groups) {
    const int64_t row = turn + group;
    const bool holds = row < end_row && d < args.half;
    Pair dy = {}, x = {}, weight = {};
    float r = 0.0F;
    if (holds) {
      dy = LoadPair<kAligned>(args.input + row * args.dim, d, args);
      x = LoadPair<kAligned>(args.normed + row * args.dim, d, args);
      r = args.inverse_rms[row];
      if (args.cosines != nullptr) Rotate<kAligned, -1>(args, row / args.heads, d, dy);
      weight = LoadPair<kAligned>(args.weight, d, args);
    }
    float dot = 0.0F;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const float first = x.first[i] * dy.first[i], second = x.second[i] * dy.second[i];
      d_weight.first[i] += first * r;
      d_weight.second[i] += second * r;
      dot += first * weight.first[i] + second * weight.second[i];
    }
    const float pull = GroupSum(dot, args.lanes) / static_cast<float>(args.dim) * r * r;
    if (!holds) continue;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      dy.first[i] = r * (weight.first[i] * dy.first[i] - x.first[i] * pull);
      dy.second[i] = r * (weight.second[i] * dy.second[i] - x.second[i] * pull);
    }
    StorePair<kAligned>(dy, args.output + row * args.dim, d, args);
  }
  if (args.partials == nullptr) return;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    sums[threadIdx.x * 2 * kLanes + i] = d_weight.first[i];
    sums[threadIdx.x * 2 * kLanes + kLanes + i] = d_weight.second[i];
  }
  __syncthreads();
  for (int element = static_cast<int>(threadIdx.x); element < args.dim; element += kThreads) {
    const bool is_second = element >= args.half;
    const int in_half = is_second ? element - args.half : element;
    const int at = in_half / kLanes * 2 * kLanes + (is_second ? kLanes : 0) + in_half % kLanes;
    float sum = 0.0F;
    for (int g = 0; g < groups; ++g) sum += sums[g * args.lanes * 2 * kLanes + at];
    args.partials[int64_t{blockIdx.x} * args.dim + element] = sum;
  }
}

// The rows of a block depend on the shape alone, so that a sum repeats on any GPU: enough blocks
// for several on each multiprocessor of a large one, enough rows that partial sums stay small.
constexpr int64_t kBlocks = 2048;
constexpr int64_t kLeastTurns = 4;

int64_t RowsPerBlock(int64_t rows, int groups) {
  return groups * std::max(kLeastTurns, CeilDivide(rows, kBlocks * groups));
}

// What forward and backward have in common; `heads` is any of the [T, H, D] views.
absl::Status SetShape(const char* op, const TensorView& heads, DeviceArgs& args) {
  const int64_t dim = heads.dim(2);
  if (dim > kMaxDim) {
    return absl::UnimplementedError(absl::StrCat(op, ": heads of ", dim,
                                                 " elements on CUDA; at most ", kMaxDim,
                                                 " are built, use device: cpu"));
  }
  args.rows = heads.dim(0) * heads.dim(1);
  args.heads = static_cast<int>(heads.dim(1));
  args.dim = static_cast<int>(dim);
  args.half = (args.dim + 1) / 2;
  args.lanes = 1;
  while (args.lanes * kLanes < args.half) args.lanes *= 2;
  return absl::OkStatus();
}

bool IsAligned(const DeviceArgs& args) {
  return args.dim % (2 * kLanes) == 0 &&
         AreAligned({args.input, args.normed, args.weight, args.cosines, args.sines, args.output});
}

template <int kDirection>
absl::Status LaunchForward(const ExecutionContext& context, const DeviceArgs& args) {
  const auto kernel =
      IsAligned(args) ? ForwardKernel<true, kDirection> : ForwardKernel<false, kDirection>;
  const int64_t blocks = CeilDivide(args.rows, kThreads / args.lanes);
  return Launch(context, "HeadNormRope", kernel, {.grid = {blocks}, .block = kThreads}, args);
}

}  // namespace

absl::Status HeadNormRopeForward(const ExecutionContext& context,
                                 const HeadNormRopeForwardArgs& args) {
  DeviceArgs device{.input = BFloat16Data(args.input),
                    .weight = BFloat16Data(args.weight),
                    .cosines = DataOrNull<float>(args.cosines),
                    .sines = DataOrNull<float>(args.sines),
                    .inverse_rms = DataOrNull<float>(args.inverse_rms),
                    .output = BFloat16Data(args.output),
                    .epsilon = static_cast<float>(args.epsilon)};
  RETURN_IF_ERROR(SetShape("HeadNormRopeForward", args.input, device));
  if (args.input.size() == 0) return absl::OkStatus();
  return LaunchForward<1>(context, device);
}

absl::Status HeadNormRopeBackward(const ExecutionContext& context,
                                  const HeadNormRopeBackwardArgs& args) {
  DeviceArgs device{.input = BFloat16Data(args.d_output),
                    .normed = BFloat16Data(args.input),
                    .weight = BFloat16Data(args.weight),
                    .cosines = DataOrNull<float>(args.cosines),
                    .sines = DataOrNull<float>(args.sines),
                    .inverse_rms = DataOrNull<float>(args.inverse_rms),
                    .output = BFloat16Data(args.d_input)};
  RETURN_IF_ERROR(SetShape("HeadNormRopeBackward", args.d_output, device));
  if (args.d_output.size() == 0) return absl::OkStatus();
  if (device.weight == nullptr) return LaunchForward<-1>(context, device);

  const ArenaScope scope(*context.arena);
  device.rows_per_block = RowsPerBlock(device.rows, kThreads / device.lanes);
  const int64_t blocks = CeilDivide(device.rows, device.rows_per_block);
  if (!args.d_weight.empty()) device.partials = context.arena->Array<float>(blocks * device.dim);
  const auto kernel = IsAligned(device) ? NormBackwardKernel<true> : NormBackwardKernel<false>;
  RETURN_IF_ERROR(Launch(context, "HeadNormRopeBackward", kernel,
                         {.grid = {blocks}, .block = kThreads}, device));
  if (args.d_weight.empty()) return absl::OkStatus();
  return AddColumnSums(context, device.partials, blocks, device.dim, args.d_weight.data<float>());
}

}  // namespace salamander::cuda
