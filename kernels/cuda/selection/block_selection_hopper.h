// Block selection by Hopper's warpgroup products, for the shapes that models have.
#ifndef KERNELS_CUDA_SELECTION_BLOCK_SELECTION_HOPPER_H_
#define KERNELS_CUDA_SELECTION_BLOCK_SELECTION_HOPPER_H_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"

namespace salamander::cuda {

struct SelectArgs;

// Queries of a tile, and how many tiles a thread block has scores of at once: it lists the blocks
// of one while it scores the next.
constexpr int kWarpgroupTileQueries = 24;
constexpr int kWarpgroupTilesAtOnce = 2;
constexpr int kWarpgroupScoreMultiple = 16;  // of the pitch of the scores
constexpr int kWarpgroupMostBlocks = 16384;  // of a document: 1M tokens in blocks of 64

// Whether the device and the shape allow it: groups of 16 heads of 64 or 128, blocks of 4 strides
// of windows of 2 strides, and a local block, so that a query sees every window of the blocks that
// it scores; documents of so many blocks.
bool CanSelectByWarpgroups(const ExecutionContext& context, const SelectArgs& args,
                           int64_t most_blocks);

absl::Status SelectByWarpgroups(const ExecutionContext& context, const SelectArgs& args,
                                int64_t thread_blocks);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_SELECTION_BLOCK_SELECTION_HOPPER_H_
