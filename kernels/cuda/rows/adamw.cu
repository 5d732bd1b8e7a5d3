// All tensors in one launch, cut into blocks of equal size. The clip is read on the device, so that
// no step waits for the gradients' norm. Bound by memory: 28 bytes a weight, 30 with its bf16 copy.
#include <cmath>
#include <vector>

#include "kernels/adamw.h"
#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/block_list.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFour = 4;                     // elements of a float4
constexpr int64_t kUpdateElements = 8192;    // of a block
constexpr int64_t kSquaresElements = 32768;  // of a block

struct UpdateTensor {
  int64_t first_block;
  float* weight;
  const float* gradient;
  float *first_moment, *second_moment;
  BFloat16* rounded;  // or null
  int64_t size;
  float step_size;  // learning_rate / (1 - beta1^step)
  float decay;      // learning_rate * weight_decay
  bool is_aligned;
};

struct UpdateArgs {
  const UpdateTensor* tensors;
  int count;
  const double* gradient_squares;
  double clip_norm;
  float first_rate, second_rate;  // 1 - beta
  float root_scale;               // 1 / sqrt(1 - beta2^step)
  float epsilon;
};

// As on the CPU, arranged so that fp32 rounds well: moments move by their distance to the new value
// (beta and 1 - beta need not add up to one in fp32), and the decay is added to the step (1 - lr *
// decay would lose most of a small decay's digits).
__device__ void Update(const UpdateArgs& args, const UpdateTensor& tensor, float scale,
                       float gradient, float& weight, float& m, float& v) {
  const float g = scale * gradient;
  m += args.first_rate * (g - m);
  v += args.second_rate * (g * g - v);
  weight -=
      tensor.step_size * m / (sqrtf(v) * args.root_scale + args.epsilon) + tensor.decay * weight;
}

__device__ void UpdateFour(const UpdateArgs& args, const UpdateTensor& tensor, float scale,
                           int64_t i) {
  const float4 g = *reinterpret_cast<const float4*>(tensor.gradient + i);
  float4 w = *reinterpret_cast<const float4*>(tensor.weight + i);
  float4 m = *reinterpret_cast<const float4*>(tensor.first_moment + i);
  float4 v = *reinterpret_cast<const float4*>(tensor.second_moment + i);
  Update(args, tensor, scale, g.x, w.x, m.x, v.x);
  Update(args, tensor, scale, g.y, w.y, m.y, v.y);
  Update(args, tensor, scale, g.z, w.z, m.z, v.z);
  Update(args, tensor, scale, g.w, w.w, m.w, v.w);
  *reinterpret_cast<float4*>(tensor.weight + i) = w;
  *reinterpret_cast<float4*>(tensor.first_moment + i) = m;
  *reinterpret_cast<float4*>(tensor.second_moment + i) = v;
  if (tensor.rounded == nullptr) return;
  *reinterpret_cast<uint2*>(tensor.rounded + i) =
      make_uint2(PackPair(w.x, w.y), PackPair(w.z, w.w));
}

__device__ void UpdateOne(const UpdateArgs& args, const UpdateTensor& tensor, float scale,
                          int64_t i) {
  Update(args, tensor, scale, tensor.gradient[i], tensor.weight[i], tensor.first_moment[i],
         tensor.second_moment[i]);
  if (tensor.rounded != nullptr) tensor.rounded[i] = __float2bfloat16(tensor.weight[i]);
}

// Grid: one block per kUpdateElements elements of a tensor.
__global__ void __launch_bounds__(kThreads) UpdateKernel(const __grid_constant__ UpdateArgs args) {
  const double squares = *args.gradient_squares;
  if (!isfinite(squares)) return;
  const double norm = sqrt(squares);
  const auto scale = static_cast<float>(
      args.clip_norm > 0.0 && norm > args.clip_norm ? args.clip_norm / norm : 1.0);
  const UpdateTensor tensor = EntryOfBlock(args.tensors, args.count, blockIdx.x);
  const int64_t begin = (blockIdx.x - tensor.first_block) * kUpdateElements;
  const int64_t end = min(tensor.size, begin + kUpdateElements);
  const int64_t end_of_fours = tensor.is_aligned ? begin + (end - begin) / kFour * kFour : begin;
  for (int64_t i = begin + threadIdx.x * kFour; i < end_of_fours; i += kThreads * kFour) {
    UpdateFour(args, tensor, scale, i);
  }
  for (int64_t i = end_of_fours + threadIdx.x; i < end; i += kThreads) {
    UpdateOne(args, tensor, scale, i);
  }
}

struct SquaresTensor {
  int64_t first_block;
  const float* data;
  int64_t size;
  bool is_aligned;
};

__device__ double Square(float value) {
  const auto wide = static_cast<double>(value);
  return wide * wide;
}

// partials [blocks]. Grid: one block per kSquaresElements elements of a tensor.
__global__ void __launch_bounds__(kThreads)
    SquaresKernel(const SquaresTensor* tensors, int count, double* partials) {
  __shared__ double scratch[kWarp];
  const SquaresTensor tensor = EntryOfBlock(tensors, count, blockIdx.x);
  const int64_t begin = (blockIdx.x - tensor.first_block) * kSquaresElements;
  const int64_t end = min(tensor.size, begin + kSquaresElements);
  const int64_t end_of_fours = tensor.is_aligned ? begin + (end - begin) / kFour * kFour : begin;
  double sums[kFour] = {};
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * kFour; i < end_of_fours; i += kThreads * kFour) {
    const float4 x = *reinterpret_cast<const float4*>(tensor.data + i);
    sums[0] += Square(x.x);
    sums[1] += Square(x.y);
    sums[2] += Square(x.z);
    sums[3] += Square(x.w);
  }
  for (int64_t i = end_of_fours + threadIdx.x; i < end; i += kThreads) {
    sums[0] += Square(tensor.data[i]);
  }
  const double sum = BlockSum((sums[0] + sums[1]) + (sums[2] + sums[3]), scratch);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

constexpr int kTotalThreads = 1024;

// sum [1]. One block: a thread adds every 1024th partial, in order, then the threads are added.
__global__ void __launch_bounds__(kTotalThreads)
    TotalKernel(const double* partials, int64_t count, double* sum) {
  __shared__ double scratch[kWarp];
  double own = 0.0;
#pragma unroll 8
  for (int64_t p = threadIdx.x; p < count; p += kTotalThreads) own += partials[p];
  const double total = BlockSum(own, scratch);
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace

absl::Status AdamWUpdate(const ExecutionContext& context, const AdamWArgs& args) {
  const ArenaScope scope(*context.arena);
  const auto step = static_cast<double>(args.step);
  std::vector<UpdateTensor> tensors;
  int64_t blocks = 0;
  for (const AdamWTensor& tensor : args.tensors) {
    if (tensor.weight.size() == 0) continue;
    UpdateTensor entry{
        .first_block = blocks,
        .weight = tensor.weight.data<float>(),
        .gradient = tensor.gradient.data<float>(),
        .first_moment = tensor.first_moment.data<float>(),
        .second_moment = tensor.second_moment.data<float>(),
        .rounded = BFloat16Data(tensor.rounded),
        .size = tensor.weight.size(),
        .step_size = static_cast<float>(tensor.learning_rate / (1.0 - std::pow(args.beta1, step))),
        .decay = static_cast<float>(tensor.learning_rate * tensor.weight_decay)};
    entry.is_aligned =
        AreAligned({entry.weight, entry.gradient, entry.first_moment, entry.second_moment}) &&
        AreAligned({entry.rounded}, kFour * sizeof(BFloat16));
    blocks += CeilDivide(entry.size, kUpdateElements);
    tensors.push_back(entry);
  }
  if (blocks == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const UpdateTensor* const list,
                   UploadArray(context, absl::Span<const UpdateTensor>(tensors)));
  const UpdateArgs device{
      .tensors = list,
      .count = static_cast<int>(tensors.size()),
      .gradient_squares = args.gradient_squares.data<double>(),
      .clip_norm = args.clip_norm,
      .first_rate = static_cast<float>(1.0 - args.beta1),
      .second_rate = static_cast<float>(1.0 - args.beta2),
      .root_scale = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(args.beta2, step))),
      .epsilon = static_cast<float>(args.epsilon)};
  return Launch(context, "AdamWUpdate", UpdateKernel, {.grid = {blocks}, .block = kThreads},
                device);
}

absl::Status SumOfSquares(const ExecutionContext& context, absl::Span<const TensorView> tensors,
                          const TensorView& sum) {
  const ArenaScope scope(*context.arena);
  std::vector<SquaresTensor> entries;
  int64_t blocks = 0;
  for (const TensorView& tensor : tensors) {
    if (tensor.size() == 0) continue;
    const auto* const data = tensor.data<float>();
    entries.push_back({.first_block = blocks,
                       .data = data,
                       .size = tensor.size(),
                       .is_aligned = AreAligned({data})});
    blocks += CeilDivide(tensor.size(), kSquaresElements);
  }
  auto* const partials = context.arena->Array<double>(blocks);
  if (blocks > 0) {
    ASSIGN_OR_RETURN(const SquaresTensor* const list,
                     UploadArray(context, absl::Span<const SquaresTensor>(entries)));
    RETURN_IF_ERROR(Launch(context, "SumOfSquares", SquaresKernel,
                           {.grid = {blocks}, .block = kThreads}, list,
                           static_cast<int>(entries.size()), partials));
  }
  return Launch(context, "SumOfSquares", TotalKernel, {.grid = {1}, .block = kTotalThreads},
                partials, blocks, sum.data<double>());
}

}  // namespace salamander::cuda
