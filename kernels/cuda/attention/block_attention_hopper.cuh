// Block attention by warpgroups of Hopper, for segments of more than one row tile.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_HOPPER_CUH_
#define KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_HOPPER_CUH_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_tiles.cuh"

namespace salamander::cuda {

// Whether the kernels below take the segments of more than kTileRows rows: 64 or 128 columns of
// aligned rows, blocks of a multiple of 64 keys, two or more query heads to a KV head. A matter of
// the tensors alone, so that a segment's results do not depend on its neighbours.
bool HopperServes(const ExecutionContext& context, const BlockAttention& attention,
                  const AttentionArgs& args);

constexpr int kWideTileRows = 128;

// The segments of a launch, and their row tiles of kWideTileRows in all.
struct WidePlan {
  std::vector<SegmentPlan> segments;
  int64_t row_tiles = 0;

  void Add(SegmentPlan segment, int group) {
    segment.first_item = row_tiles;
    segments.push_back(segment);
    row_tiles += CeilDivide(segment.query_count * group, kWideTileRows);
  }
};

// Requires: HopperServes. The segments of `args` are left out.
absl::Status HopperForward(const ExecutionContext& context, const BlockAttention& attention,
                           const AttentionArgs& args, const WidePlan& plan, BFloat16* out,
                           float* logsumexp);

// Requires: HopperServes; `delta` is there.
absl::Status HopperBackwardQueries(const ExecutionContext& context, const BlockAttention& attention,
                                   const BackwardArgs& args, const WidePlan& plan);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_HOPPER_CUH_
