// Host side of the backward of block attention: the segments' work items and the order of kernels.
#include <algorithm>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/block_attention_gradients.cuh"
#include "kernels/cuda/attention/block_attention_hopper.cuh"

namespace salamander::cuda {
namespace {

struct BackwardPlan {
  std::vector<SegmentPlan> queries, keys;
  int64_t query_items = 0, key_items = 0, query_count = 0;
  WidePlan wide;  // segments whose queries Hopper's kernel takes; they have no items in `queries`
};

BackwardPlan PlanBackward(const BlockAttention& attention, const AttentionArgs& args,
                          bool has_hopper) {
  BackwardPlan plan;
  int64_t blocks = 0;
  for (const Segment& segment : attention.segments) {
    SegmentPlan entry = {segment.query_begin, segment.query_count, segment.key_begin,
                         segment.first_position};
    entry.first_query = plan.query_count;
    entry.first_block = blocks;
    entry.first_item = plan.query_items;
    plan.queries.push_back(entry);
    entry.first_item = plan.key_items;
    plan.keys.push_back(entry);
    const int64_t segment_blocks = CeilDivide(segment.key_count(), args.block_size);
    blocks += segment_blocks;
    plan.query_count += segment.query_count;
    const int64_t tiles = CeilDivide(segment.query_count * args.group, kTileRows);
    if (has_hopper && tiles > 1) {
      plan.wide.Add(entry, args.group);
    } else {
      plan.query_items += tiles * args.key_heads;
    }
    plan.key_items += segment_blocks * PiecesOfBlock(args.block_size) * args.key_heads;
  }
  return plan;
}

}  // namespace

absl::Status BlockAttentionBackward(const ExecutionContext& context,
                                    const BlockAttention& attention,
                                    const BlockAttentionGradients& gradients) {
  RETURN_IF_ERROR(CheckHeadDim("attention backward", attention.q.dim(2)));
  if (attention.segments.empty()) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  BackwardArgs args = {};
  args.attention = MakeAttentionArgs(attention);
  args.d_out = BFloat16Data(gradients.d_out);
  args.logsumexp = gradients.logsumexp.data<float>();
  args.delta = context.arena->Array<float>(gradients.logsumexp.size());
  args.dq = BFloat16Data(gradients.dq);
  args.dk = BFloat16Data(gradients.dk);
  args.dv = BFloat16Data(gradients.dv);
  args.attention.is_aligned =
      args.attention.is_aligned && AreAligned({args.d_out, args.dq, args.dk, args.dv});
  const bool has_hopper = HopperServes(context, attention, args.attention);
  const BackwardPlan plan = PlanBackward(attention, args.attention, has_hopper);
  args.attention.segment_count = static_cast<int>(plan.queries.size());
  ASSIGN_OR_RETURN(args.attention.segments,
                   UploadArray<SegmentPlan>(context, absl::MakeConstSpan(plan.queries)));
  RETURN_IF_ERROR(LaunchDelta(context, args, BFloat16Data(gradients.out), plan.query_count));
  RETURN_IF_ERROR(HopperBackwardQueries(context, attention, args, plan.wide));
  RETURN_IF_ERROR(LaunchBackwardQueries(context, args, plan.query_items));
  if (!attention.blocks.empty()) {
    ASSIGN_OR_RETURN(args.readers, FindBlockReaders(context, attention));
  }
  if (HopperKeysServe(context, attention, args)) {
    return HopperBackwardKeys(context, attention, gradients, args);
  }
  ASSIGN_OR_RETURN(args.attention.segments,
                   UploadArray<SegmentPlan>(context, absl::MakeConstSpan(plan.keys)));
  return LaunchBackwardKeys(context, args, plan.key_items);
}

}  // namespace salamander::cuda
