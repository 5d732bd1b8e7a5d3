// Decoding: segments of a few queries by the recurrence itself in fp32,
//   S = l S + v k^T     o = scale S q     S [value dim, key dim],
// which is the time of reading and writing the states once. A lane keeps four neighbouring elements
// of each of its warp's rows: 16-byte accesses, all in flight at once.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/lightning/lightning_kernels.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kRowsOfWarp = 4;  // value dims
constexpr int kRowsOfBlock = kWarps * kRowsOfWarp;
constexpr int kKeysOfLane = 4;  // a row of at most 128 key dims

struct alignas(8) BFloat16x4 {
  __nv_bfloat162 low, high;
};

__device__ inline float4 LoadFour(const BFloat16* source) {
  const auto packed = *reinterpret_cast<const BFloat16x4*>(source);
  const float2 low = __bfloat1622float2(packed.low), high = __bfloat1622float2(packed.high);
  return make_float4(low.x, low.y, high.x, high.y);
}

// Grid: x = (segment, head, group of 32 value dims), the group fastest. A warp takes four of them.
__global__ void __launch_bounds__(kWarps* kWarp)
    StepKernel(const __grid_constant__ LightningStepArgs args) {
  const int dim = args.shape.dim;
  const int groups = static_cast<int>(CeilDivide(dim, kRowsOfBlock));
  const auto item = static_cast<int32_t>(blockIdx.x) / groups;
  const LightningHead head = args.shape.heads_by_slope[item % args.shape.heads];
  const LightningRun run = args.steps[item / args.shape.heads];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = static_cast<int>(blockIdx.x) % groups * kRowsOfBlock +
                  static_cast<int>(threadIdx.x) / kWarp * kRowsOfWarp;
  if (row >= dim) return;
  const bool has_keys = lane * kKeysOfLane < dim;
  const int64_t within = int64_t{row} * dim + lane * kKeysOfLane;
  const auto state_at = [&](int32_t slot) {
    return args.states + (int64_t{slot} * args.shape.heads + head.index) * dim * dim + within;
  };

  float4 state[kRowsOfWarp] = {};
  if (run.start_slot >= 0 && has_keys) {
    const float* const stored = state_at(run.start_slot);
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      state[i] = *reinterpret_cast<const float4*>(stored + i * dim);
    }
  }
  for (int64_t t = 0; t < run.count; ++t) {
    const int64_t offset = ((run.first_row + t) * args.shape.heads + head.index) * dim;
    const float4 value = LoadFour(static_cast<const BFloat16*>(args.v) + offset + row);
    float4 key = {}, query = {};
    if (has_keys) {
      key = LoadFour(static_cast<const BFloat16*>(args.k) + offset + lane * kKeysOfLane);
      query = LoadFour(static_cast<const BFloat16*>(args.q) + offset + lane * kKeysOfLane);
    }
    const float values[kRowsOfWarp] = {value.x, value.y, value.z, value.w};
    float out[kRowsOfWarp];
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      state[i].x = fmaf(head.step_decay, state[i].x, values[i] * key.x);
      state[i].y = fmaf(head.step_decay, state[i].y, values[i] * key.y);
      state[i].z = fmaf(head.step_decay, state[i].z, values[i] * key.z);
      state[i].w = fmaf(head.step_decay, state[i].w, values[i] * key.w);
      out[i] = args.scale * WarpSum(state[i].x * query.x + state[i].y * query.y +
                                    state[i].z * query.z + state[i].w * query.w);
    }
    if (lane == 0) {
      *reinterpret_cast<BFloat16x4*>(static_cast<BFloat16*>(args.out) + offset + row) = {
          __floats2bfloat162_rn(out[0], out[1]), __floats2bfloat162_rn(out[2], out[3])};
    }
  }
  if (run.end_slot >= 0 && has_keys) {
    float* const stored = state_at(run.end_slot);
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      *reinterpret_cast<float4*>(stored + i * dim) = state[i];
    }
  }
}

}  // namespace

absl::Status LaunchLightningSteps(const ExecutionContext& context, const LightningStepArgs& args) {
  if (args.step_count == 0) return absl::OkStatus();
  const int64_t blocks =
      int64_t{args.step_count} * args.shape.heads * CeilDivide(args.shape.dim, kRowsOfBlock);
  return Launch(context, "StepKernel", StepKernel, {.grid = {blocks}, .block = kWarps * kWarp},
                args);
}

}  // namespace salamander::cuda
