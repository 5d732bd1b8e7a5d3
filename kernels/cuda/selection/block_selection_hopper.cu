// Block selection by warpgroup products (wgmma). A thread block takes tiles of 24 queries of one KV
// head, the longest first. Its 16 warps have three parts:
//   loader (1 warp)        the tile's queries, then its coarse keys and its fine keys, 64 windows
//                          at a time, into a ring of shared memory
//   scorers (3 warpgroups) eight queries each: products of queries and keys, the normaliser, the
//                          weights, their sum over the group, the maximum over a block's windows
//   listers (3 warps)      the best blocks of a tile's queries (block_top_k.cuh), while the scorers
//                          are at the next tile
// Products and exponentials take about the same time. A warp that multiplies from registers waits
// until the tensor cores have read them, so products of one warpgroup run beside exponentials of
// the others.
//
// A scorer's 128 rows, 8 queries of 16 heads, are two products of 64 rows whose left operands stay
// in registers: shared memory has to deliver the keys alone. Rows are dealt out such that a lane's
// four (two of each product) are heads m, m + 4, m + 8 and m + 12 of query lane / 16 of the warp,
// m = lane / 4 % 4: the sum over a group is three additions in the thread and then two exchanges,
// which also deal out the windows. Windows lie in shared memory in such an order that a lane ends
// up with the four windows that begin in block lane % 16 of the 16 blocks of a tile of keys. The
// window that reaches into the block from the one before it comes from the lane below.
//
// Scorers store a query's block scores in global memory, which stays in the L2 cache, and count
// them by size in shared memory. By the count a lister knows which of 256 sizes the last score of
// the list has. It reads the scores once, sorts the blocks into bits, those of larger scores and
// those of that size, decides among the few scores of the latter, and lists the bits.
//
// A query's result does not depend on its neighbours: tiles of windows start at the same window for
// all, and all sums have a fixed order. But a document of more than kWarpgroupMostBlocks blocks
// takes its whole call to the general kernel, whose scores may differ in their last bits.
//
// Registers of a scorer's thread: 64 left operands, 32 accumulators, 16 sums of windows. Shared
// memory for heads of 128: 64 KiB of keys, 96 KiB of queries, 48 KiB of counts, 12 KiB of listers.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/selection/block_selection_hopper.h"
#include "kernels/cuda/selection/selection_tiles.cuh"
#include "kernels/cuda/selection/warpgroup_lister.cuh"
#include "kernels/cuda/selection/warpgroup_scorer.cuh"
#include "kernels/cuda/selection/warpgroup_selection.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda {
namespace warpgroup_selection {
namespace {

// Grid: as many blocks as stay resident. Block: the loader and the listers are the first
// warpgroup, then the scorers.
template <int kD>
__global__ void __launch_bounds__(kThreads, 1) SelectKernel(const SelectArgs args) {
  extern __shared__ __align__(1024) char memory[];
  const SharedMemory<kD> shared{memory};
  if (threadIdx.x == 0) shared.InitBarriers();
  ZeroCounts<kThreads>(shared.Counts(0, 0), kScoreBuffers * kTileQueries * kBins, threadIdx.x);
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (warp < kWarpgroup / kWarp) {
    GiveRegisters<kOtherRegisters>();
    if (warp == 0) {
      Loader<kD>(args, shared).Run();
    } else {
      ListTiles(args, shared, warp - 1);
    }
  } else {
    TakeRegisters<kScorerRegisters>();
    Scorer<kD>(args, shared, warp / (kWarpgroup / kWarp) - 1).Run();
  }
}

}  // namespace
}  // namespace warpgroup_selection

bool CanSelectByWarpgroups(const ExecutionContext& context, const SelectArgs& args,
                           int64_t most_blocks) {
  const int head_dim = args.rows.head_dim;
  return context.cuda->has_warpgroups() && args.rows.group == warpgroup_selection::kGroup &&
         (head_dim == 64 || head_dim == 128) && args.rows.is_aligned && args.rows.scale > 0.0F &&
         args.fine.size == 2 * args.fine.stride &&
         args.block_size == warpgroup_selection::kWindowsPerBlock * args.fine.stride &&
         args.local_blocks > 0 && most_blocks <= kWarpgroupMostBlocks;
}

absl::Status SelectByWarpgroups(const ExecutionContext& context, const SelectArgs& args,
                                int64_t thread_blocks) {
  const auto launch = [&]<int kD>() {
    return Launch(context, "WarpgroupSelectKernel", warpgroup_selection::SelectKernel<kD>,
                  {.grid = {thread_blocks},
                   .block = warpgroup_selection::kThreads,
                   .shared_bytes = warpgroup_selection::SharedMemory<kD>::kBytes},
                  args);
  };
  return args.rows.head_dim == 64 ? launch.template operator()<64>()
                                  : launch.template operator()<128>();
}

}  // namespace salamander::cuda
