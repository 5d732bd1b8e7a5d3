// What ranks that hold the same weights tell each other in a step: each receives the gradients'
// sum over its shard (model/shard_layout.h), and gives its shard's new weights to all. One bucket
// at a time, of those given, which are the same on all ranks; enqueued on the context's stream.
#ifndef TRAINER_STEP_REPLICA_EXCHANGE_H_
#define TRAINER_STEP_REPLICA_EXCHANGE_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "model/parallel/communicator.h"
#include "model/shard_layout.h"

namespace salamander {

// Each rank's part of the buckets of `flat` becomes its sum over the replicas, in place; what the
// others hold of it is spent. Scratch: a part of one bucket.
absl::Status SumShard(const ExecutionContext& execution,
                      absl::Span<const ShardLayout::Bucket> buckets, Communicator& replicas,
                      const TensorView& flat);

// Every rank's part of the buckets of `flat` becomes every rank's.
absl::Status GatherShards(absl::Span<const ShardLayout::Bucket> buckets, Communicator& replicas,
                          const TensorView& flat);

}  // namespace salamander

#endif  // TRAINER_STEP_REPLICA_EXCHANGE_H_
