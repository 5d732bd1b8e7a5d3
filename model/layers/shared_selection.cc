#include "model/layers/shared_selection.h"

#include <algorithm>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// The segments' queries in rows [begin, begin + count), counted from `begin`.
std::vector<Segment> QueriesWithin(Segments segments, int64_t begin, int64_t count) {
  std::vector<Segment> within;
  for (Segment segment : segments) {
    const int64_t first = std::max(segment.query_begin, begin);
    const int64_t end = std::min(segment.query_begin + segment.query_count, begin + count);
    if (first >= end) continue;
    segment.first_position += first - segment.query_begin;
    segment.query_begin = first - begin;
    segment.query_count = end - first;
    within.push_back(segment);
  }
  return within;
}

}  // namespace

absl::Status SelectSharedBlocks(const MixerPass& pass, int holders, const SelectBlocksArgs& args) {
  const ExecutionContext& execution = *pass.execution;
  if (holders == 1) return SelectBlocks(execution, args);
  Communicator& ranks = pass.parallel->holders(holders);
  const int64_t rows = args.q.dim(0) / holders, heads = args.q.dim(1), head_dim = args.q.dim(2);
  SALAMANDER_CHECK(args.fine_keys.dim(1) == 1 && rows * holders == args.q.dim(0))
      << holders << " ranks share the heads of keys " << args.fine_keys.ShapeString()
      << " for queries " << args.q.ShapeString();
  Arena& arena = *execution.arena;
  const ArenaScope scope(arena);
  const TensorView exchanged = arena.Tensor(args.q.dtype(), {args.q.dim(0), heads, head_dim});
  const TensorView queries = arena.Tensor(args.q.dtype(), {rows, holders * heads, head_dim});
  RETURN_IF_ERROR(ranks.AllToAll(args.q, exchanged));
  RETURN_IF_ERROR(JoinColumns(execution, exchanged, holders, queries));
  const TensorView blocks = arena.Tensor(DType::kInt32, {rows, 1, args.blocks.dim(2)});
  const std::vector<Segment> own = QueriesWithin(args.segments, ranks.rank() * rows, rows);
  if (!own.empty()) {
    SelectBlocksArgs share = args;
    share.q = queries;
    share.segments = own;
    share.blocks = blocks;
    RETURN_IF_ERROR(SelectBlocks(execution, share));
  }
  return ranks.AllGather(blocks, args.blocks);
}

}  // namespace salamander
