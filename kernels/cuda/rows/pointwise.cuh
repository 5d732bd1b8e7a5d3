// Kernels whose every output element depends on the input elements at its own place: one pass over
// memory, two vectors of eight elements to a thread, all loads before the first store, so that an
// output may be an input.
#ifndef KERNELS_CUDA_ROWS_POINTWISE_CUH_
#define KERNELS_CUDA_ROWS_POINTWISE_CUH_

#include <array>
#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"

namespace salamander::cuda {

constexpr int kPointwiseThreads = 256;
constexpr int kPointwiseVectors = 2;  // per thread, a block's width apart

template <int kInputs, int kOutputs>
struct PointwiseArgs {
  const BFloat16* inputs[kInputs];  // each [size]
  BFloat16* outputs[kOutputs];      // each [size]
  int64_t size;
  bool is_aligned;  // all of them
};

// Grid: one block per kPointwiseThreads * kPointwiseVectors * 8 elements.
template <typename Formula, int kInputs, int kOutputs>
__global__ void __launch_bounds__(kPointwiseThreads)
    PointwiseKernel(const __grid_constant__ PointwiseArgs<kInputs, kOutputs> args) {
  Packed loaded[kPointwiseVectors][kInputs];
  const auto begin_of = [](int vector) {
    const int64_t first = int64_t{blockIdx.x} * kPointwiseVectors + vector;
    return (first * kPointwiseThreads + threadIdx.x) * kLanes;
  };
#pragma unroll
  for (int vector = 0; vector < kPointwiseVectors; ++vector) {
    const int64_t begin = begin_of(vector);
    if (begin >= args.size) break;
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      loaded[vector][i] = LoadPacked(args.inputs[i], begin, args.size,
                                     args.is_aligned && begin + kLanes <= args.size);
    }
  }
#pragma unroll
  for (int vector = 0; vector < kPointwiseVectors; ++vector) {
    const int64_t begin = begin_of(vector);
    if (begin >= args.size) break;
    float inputs[kInputs][kLanes];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) Unpack(loaded[vector][i], inputs[i]);
    float outputs[kOutputs][kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      float in[kInputs], out[kOutputs];
#pragma unroll
      for (int i = 0; i < kInputs; ++i) in[i] = inputs[i][lane];
      Formula::Apply(in, out);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) outputs[i][lane] = out[i];
    }
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      StorePacked(PackEight(outputs[i]), args.outputs[i], begin, args.size,
                  args.is_aligned && begin + kLanes <= args.size);
    }
  }
}

// outputs[.][i] = Formula of inputs[.][i]. Requires: equal sizes.
template <typename Formula, size_t kInputs, size_t kOutputs>
absl::Status LaunchPointwise(const ExecutionContext& context,
                             const std::array<TensorView, kInputs>& inputs,
                             const std::array<TensorView, kOutputs>& outputs) {
  PointwiseArgs<static_cast<int>(kInputs), static_cast<int>(kOutputs)> args;
  args.size = outputs[0].size();
  args.is_aligned = true;
  for (size_t i = 0; i < kInputs; ++i) {
    args.inputs[i] = BFloat16Data(inputs[i]);
    args.is_aligned &= AreAligned({args.inputs[i]});
  }
  for (size_t i = 0; i < kOutputs; ++i) {
    args.outputs[i] = BFloat16Data(outputs[i]);
    args.is_aligned &= AreAligned({args.outputs[i]});
  }
  if (args.size == 0) return absl::OkStatus();
  const int64_t blocks = CeilDivide(args.size, kPointwiseThreads * kPointwiseVectors * kLanes);
  return Launch(context, "PointwiseKernel",
                PointwiseKernel<Formula, static_cast<int>(kInputs), static_cast<int>(kOutputs)>,
                {.grid = {blocks}, .block = kPointwiseThreads}, args);
}

// By the special function unit: right to a few ulp of fp32, far below bf16. Towards -infinity it
// reaches zero where fp32 would still hold a denormal.
__device__ inline float Sigmoid(float x) {
  return __fdividef(1.0F, 1.0F + __expf(-x));
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ROWS_POINTWISE_CUH_
