// Sequence parallelism: between mixers and MLPs each tensor rank holds an equal run of the stream's
// rows, rank r the r-th. A mixer or MLP is given all rows and makes of them a part of its output,
// which its ranks add up:
//
//   input [T / R, C] -- GatherRows --> [T, C] -- part --> [T, C] -- SumRows --> output [T / R, C]
//
// The backward does the same with the gradients of output and input.
// On one rank a rank's rows are all rows and nothing moves: WholeRows is then the tensor itself.
#ifndef MODEL_PARALLEL_SEQUENCE_SHARDS_H_
#define MODEL_PARALLEL_SEQUENCE_SHARDS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "model/parallel/parallel_context.h"

namespace salamander {

// Null: one rank.
int TensorRanks(const ParallelContext* parallel);
int TensorRank(const ParallelContext* parallel);

// How many of a stream's rows a rank holds. Requires: equally many each.
int64_t ShardRows(const ParallelContext* parallel, int64_t rows);

// The rank's rows of a tensor that holds all.
TensorView ShardOf(const ParallelContext* parallel, const TensorView& whole);

// Room in the context's arena for all rows of what `mine` holds the rank's rows of.
TensorView WholeRows(const ExecutionContext& execution, const ParallelContext* parallel,
                     const TensorView& mine);

// whole [T, ...] = every rank's `mine` [T / R, ...].
absl::Status GatherRows(const ParallelContext* parallel, const TensorView& mine,
                        const TensorView& whole);

// The two together: all rows of what `mine` holds the rank's rows of.
absl::StatusOr<TensorView> GatheredRows(const ExecutionContext& execution,
                                        const ParallelContext* parallel, const TensorView& mine);

// mine [T / R, ...] = the rank's rows of the sum of every rank's `parts` [T, ...].
absl::Status SumRows(const ParallelContext* parallel, const TensorView& parts,
                     const TensorView& mine);

}  // namespace salamander

#endif  // MODEL_PARALLEL_SEQUENCE_SHARDS_H_
