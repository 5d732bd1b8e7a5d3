#include "trainer/step/replica_exchange.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {

absl::Status SumShard(const ExecutionContext& execution, const ShardLayout& shard,
                      Communicator& replicas, const TensorView& flat) {
  if (shard.ranks() == 1) return absl::OkStatus();
  const ArenaScope scope(*execution.arena);
  const TensorView sums =
      execution.arena->Tensor(flat.dtype(), {shard.buckets().front().part});  // the largest
  for (const ShardLayout::Bucket& bucket : shard.buckets()) {
    const TensorView mine = sums.Rows(0, bucket.part);
    RETURN_IF_ERROR(
        replicas.ReduceScatterSum(flat.Rows(bucket.begin, bucket.part * shard.ranks()), mine));
    RETURN_IF_ERROR(Copy(execution, mine, flat.Rows(bucket.mine(shard.rank()), bucket.part)));
  }
  return absl::OkStatus();
}

absl::Status GatherShards(const ShardLayout& shard, Communicator& replicas,
                          const TensorView& flat) {
  if (shard.ranks() == 1) return absl::OkStatus();
  for (const ShardLayout::Bucket& bucket : shard.buckets()) {
    RETURN_IF_ERROR(replicas.AllGather(flat.Rows(bucket.mine(shard.rank()), bucket.part),
                                       flat.Rows(bucket.begin, bucket.part * shard.ranks())));
  }
  return absl::OkStatus();
}

}  // namespace salamander
