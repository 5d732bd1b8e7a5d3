// LightningStateSum: one pass over the states whose weight is not zero.
#include <vector>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;

struct DeviceArgs {
  const float* states;   // [R, H, D, D]
  const float* weights;  // [R, H]
  float* sum;            // [H, D, D]
  int ranks, heads;
  int64_t state_size;  // D * D
};

// Grid: x over the elements of a head's state, y over heads.
__global__ void __launch_bounds__(kThreads) StateSumKernel(const DeviceArgs args) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= args.state_size) return;
  const auto head = static_cast<int>(blockIdx.y);
  float sum = 0;
  for (int rank = 0; rank < args.ranks; ++rank) {
    const int64_t state = int64_t{rank} * args.heads + head;
    const float weight = args.weights[state];
    if (weight != 0) sum = fmaf(weight, args.states[state * args.state_size + i], sum);
  }
  args.sum[head * args.state_size + i] = sum;
}

}  // namespace

absl::Status LightningStateSum(const ExecutionContext& context, const LightningStateSumArgs& args) {
  const ArenaScope scope(*context.arena);
  const std::vector<float> weights(args.weights.begin(), args.weights.end());
  ASSIGN_OR_RETURN(const float* const device_weights,
                   UploadArray(context, absl::Span<const float>(weights)));
  const int64_t heads = args.states.dim(1), state_size = args.states.row_size() / heads;
  const Grid grid = {CeilDivide(state_size, kThreads), heads};
  return Launch(context, "StateSumKernel", StateSumKernel, {.grid = grid, .block = kThreads},
                DeviceArgs{.states = args.states.data<float>(),
                           .weights = device_weights,
                           .sum = args.sum.data<float>(),
                           .ranks = static_cast<int>(args.states.dim(0)),
                           .heads = static_cast<int>(heads),
                           .state_size = state_size});
}

}  // namespace salamander::cuda
