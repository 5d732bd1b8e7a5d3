#include "model/parallel/sequence_shards.h"

#include "kernels/base/status_macros.h"

namespace salamander {

int TensorRanks(const ParallelContext* parallel) {
  return parallel == nullptr ? 1 : parallel->shape().tensor;
}

int TensorRank(const ParallelContext* parallel) {
  return parallel == nullptr ? 0 : parallel->coordinate().tensor;
}

int64_t ShardRows(const ParallelContext* parallel, int64_t rows) {
  const int ranks = TensorRanks(parallel);
  SALAMANDER_CHECK(rows % ranks == 0)
      << rows << " rows of a stream on " << ranks << " tensor ranks";
  return rows / ranks;
}

TensorView ShardOf(const ParallelContext* parallel, const TensorView& whole) {
  const int64_t rows = ShardRows(parallel, whole.dim(0));
  return whole.Rows(TensorRank(parallel) * rows, rows);
}

TensorView WholeRows(const ExecutionContext& execution, const ParallelContext* parallel,
                     const TensorView& mine) {
  const int ranks = TensorRanks(parallel);
  if (ranks == 1) return mine;
  return execution.arena->Tensor(mine.dtype(), {mine.dim(0) * ranks, mine.row_size()});
}

absl::Status GatherRows(const ParallelContext* parallel, const TensorView& mine,
                        const TensorView& whole) {
  if (TensorRanks(parallel) == 1) return absl::OkStatus();
  return parallel->tensor().AllGather(mine, whole);
}

absl::StatusOr<TensorView> GatheredRows(const ExecutionContext& execution,
                                        const ParallelContext* parallel, const TensorView& mine) {
  const TensorView whole = WholeRows(execution, parallel, mine);
  RETURN_IF_ERROR(GatherRows(parallel, mine, whole));
  return whole;
}

absl::Status SumRows(const ParallelContext* parallel, const TensorView& parts,
                     const TensorView& mine) {
  if (TensorRanks(parallel) == 1) return absl::OkStatus();
  return parallel->tensor().ReduceScatterSum(parts, mine);
}

}  // namespace salamander
