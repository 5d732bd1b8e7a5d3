// Gradients of parameters that several tensor ranks hold the same elements of: norms, which each
// rank saw its rows' or heads' part of, and projections of keys and values that query heads of
// several ranks read. Each holder's is a part of the sum.
#ifndef MODEL_SHARED_GRADIENTS_H_
#define MODEL_SHARED_GRADIENTS_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "model/parallel/parallel_context.h"
#include "model/parameters.h"

namespace salamander {

// Gives every holder the sum, with the same bits. Once a step, before the optimizer; one collective
// for each number of holders.
// Requires: `gradients` is laid out by `layout`, whose shard is the rank's in `parallel`.
absl::Status SumSharedGradients(const ExecutionContext& execution, const ParameterLayout& layout,
                                const ParameterBuffer& gradients, const ParallelContext& parallel);

}  // namespace salamander

#endif  // MODEL_SHARED_GRADIENTS_H_
