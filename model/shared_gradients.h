// Gradients of parameters that several tensor ranks hold whole: norms, and heads of keys and values
// where there are fewer of them than ranks.
#ifndef MODEL_SHARED_GRADIENTS_H_
#define MODEL_SHARED_GRADIENTS_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "model/parallel/parallel_context.h"
#include "model/parameters.h"
#include "model/shard_layout.h"

namespace salamander {

// Each rank has its heads' and rows' share of such a gradient; all holders receive the sum of the
// shard's elements, the same bits. One all-reduce over the tensor ranks. The sum over replicas
// comes before: two groups of replicas may add in another order, and holders would drift apart.
// Requires: the same shard on all tensor ranks; fp32 or fp64.
absl::Status SumSharedGradients(const ExecutionContext& execution, const ParameterLayout& layout,
                                const ShardLayout& shard, const ParameterBuffer& gradients,
                                const ParallelContext& parallel);

}  // namespace salamander

#endif  // MODEL_SHARED_GRADIENTS_H_
