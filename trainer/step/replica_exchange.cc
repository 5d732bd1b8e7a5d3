#include "trainer/step/replica_exchange.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {

absl::Status SumShard(const ExecutionContext& execution,
                      absl::Span<const ShardLayout::Bucket> buckets, Communicator& replicas,
                      const TensorView& flat) {
  if (replicas.size() == 1 || buckets.empty()) return absl::OkStatus();
  const ArenaScope scope(*execution.arena);
  const TensorView sums =
      execution.arena->Tensor(flat.dtype(), {buckets.front().part});  // the largest
  for (const ShardLayout::Bucket& bucket : buckets) {
    const TensorView mine = sums.Rows(0, bucket.part);
    RETURN_IF_ERROR(
        replicas.ReduceScatterSum(flat.Rows(bucket.begin, bucket.part * replicas.size()), mine));
    RETURN_IF_ERROR(Copy(execution, mine, flat.Rows(bucket.mine(replicas.rank()), bucket.part)));
  }
  return absl::OkStatus();
}

absl::Status GatherShards(absl::Span<const ShardLayout::Bucket> buckets, Communicator& replicas,
                          const TensorView& flat) {
  if (replicas.size() == 1) return absl::OkStatus();
  for (const ShardLayout::Bucket& bucket : buckets) {
    RETURN_IF_ERROR(replicas.AllGather(flat.Rows(bucket.mine(replicas.rank()), bucket.part),
                                       flat.Rows(bucket.begin, bucket.part * replicas.size())));
  }
  return absl::OkStatus();
}

}  // namespace salamander
