// Block selection. A tile of queries of one KV head, with all heads of its group as rows, meets the
// coarse keys for the normaliser and the fine keys for the scores, by tensor cores with fp32
// accumulation. Scores are summed over the group and raised into one score per block in scratch
// memory of a thread block's own; then a warp takes the best blocks of a query by radix selection.
// Only windows that touch a block which is not forced are scored.
//
// A query's result does not depend on its neighbours: tiles of windows start at the same window for
// all, and the sums over heads have a fixed order.
//
// Hopper has kernels of its own for the shapes that models have (block_selection_hopper.cu).
#include <algorithm>
#include <vector>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention_tiles.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/selection/block_scores.cuh"
#include "kernels/cuda/selection/block_selection_hopper.h"
#include "kernels/cuda/selection/block_top_k.cuh"
#include "kernels/cuda/selection/selection_tiles.cuh"

namespace salamander::cuda {
namespace {

constexpr int64_t kScratchBytes = int64_t{256} << 20;
constexpr int kBlocksPerMultiprocessor = 2;

// Grid: as many blocks as stay resident, each takes every gridDim.x-th (segment, query tile, KV
// head), the last tiles of a segment first. Block: four warps; in scoring warp w owns 16 of 64
// rows.
template <int kD>
__global__ void __launch_bounds__(kTileThreads, 2) SelectKernel(const SelectArgs args) {
  extern __shared__ __align__(128) char memory[];
  __shared__ __align__(16) int bins[kTileThreads / kWarp][kBins];
  float* const block_scores = args.scores + blockIdx.x * args.tile_queries * args.score_pitch;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const SelectionTile tile(args, item);
    if (tile.IsScored(args)) {
      TileScorer<kD>(args, tile, memory, block_scores).Run();
    }
    for (int query = warp; query < tile.queries; query += kTileThreads / kWarp) {
      const float* const scores = block_scores + query * args.score_pitch;
      const auto list_best = [&](int begin, int end, int places, int32_t* list) {
        const ScoreCut cut =
            FindCut(scores, begin, end, {0, kHighestScore, places, end - begin}, bins[warp]);
        ListAboveCut(scores, begin, end, cut, list);
      };
      ListBlocks(args, tile.position + query, list_best,
                 args.List(tile.query_row + query, tile.key_head));
    }
    __syncthreads();
  }
}

SelectArgs MakeSelectArgs(const SelectBlocksArgs& args) {
  SelectArgs select = {};
  select.rows = MakeAttentionArgs({.q = args.q,
                                   .k = args.fine_keys,
                                   .v = args.coarse_keys,
                                   .segments = args.segments,
                                   .blocks = {},
                                   .block_size = args.shape.block_size,
                                   .scale = args.scale});
  select.fine_keys = select.rows.k;
  select.coarse_keys = select.rows.v;
  select.fine = FineWindows(args.shape);
  select.coarse = CoarseWindows(args.shape);
  select.block_size = args.shape.block_size;
  select.init_blocks = args.shape.init_blocks;
  select.local_blocks = args.shape.local_blocks;
  select.selected_blocks = static_cast<int>(args.shape.selected_blocks);
  select.scale = select.rows.scale * kLog2E;
  select.blocks = args.blocks.data<int32_t>();
  return select;
}

}  // namespace

absl::Status SelectBlocks(const ExecutionContext& context, const SelectBlocksArgs& args) {
  RETURN_IF_ERROR(CheckHeadDim("SelectBlocks", args.q.dim(2)));
  const ArenaScope scope(*context.arena);
  SelectArgs select = MakeSelectArgs(args);
  int64_t most_blocks = 0;
  for (const Segment& segment : args.segments) {
    most_blocks = std::max(most_blocks, CeilDivide(segment.key_count(), args.shape.block_size));
  }
  const bool has_warpgroups = CanSelectByWarpgroups(context, select, most_blocks);
  select.tile_queries =
      has_warpgroups ? kWarpgroupTileQueries : std::max(1, kTileRows / select.rows.group);
  select.tile_rows = select.tile_queries * select.rows.group;
  std::vector<SegmentPlan> segments;
  for (const Segment& segment : args.segments) {
    SegmentPlan entry = {segment.query_begin, segment.query_count, segment.key_begin,
                         segment.first_position};
    entry.first_item = select.items;
    segments.push_back(entry);
    select.items += CeilDivide(segment.query_count, select.tile_queries) * select.rows.key_heads;
  }
  if (segments.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(select.rows.segments,
                   UploadArray<SegmentPlan>(context, absl::MakeConstSpan(segments)));
  select.rows.segment_count = static_cast<int>(segments.size());
  select.score_pitch = CeilDivide(most_blocks, kWarpgroupScoreMultiple) * kWarpgroupScoreMultiple;
  const int64_t tile_scores = select.tile_queries * select.score_pitch;
  const int64_t tiles_at_once = has_warpgroups ? kWarpgroupTilesAtOnce : 1;
  const int64_t resident = has_warpgroups ? 1 : kBlocksPerMultiprocessor;
  const int64_t blocks =
      std::min({select.items, resident * context.cuda->multiprocessors(),
                std::max<int64_t>(1, kScratchBytes / 4 / (tile_scores * tiles_at_once))});
  select.scores = context.arena->Array<float>(blocks * tiles_at_once * tile_scores);
  if (has_warpgroups) return SelectByWarpgroups(context, select, blocks);
  return ForTileColumns(select.rows.head_dim, [&]<int kD>() -> absl::Status {
    const int bytes = SelectionMemory<kD>::Bytes(select);
    return Launch(context, "SelectKernel", SelectKernel<kD>,
                  {.grid = {blocks}, .block = kTileThreads, .shared_bytes = bytes}, select);
  });
}

}  // namespace salamander::cuda
