// Gradients of parameters that several tensor ranks hold whole: norms, and heads of keys and values
// where there are fewer of them than ranks.
#ifndef MODEL_SHARED_GRADIENTS_H_
#define MODEL_SHARED_GRADIENTS_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "model/parallel/parallel_context.h"
#include "model/parameters.h"

namespace salamander {

// Each rank has its heads' and rows' share of such a gradient; all holders receive the sum, the
// same bits. One all-reduce over the tensor ranks. Requires: fp32.
absl::Status SumSharedGradients(const ExecutionContext& execution, const ParameterLayout& layout,
                                const ParameterBuffer& gradients, const ParallelContext& parallel);

}  // namespace salamander

#endif  // MODEL_SHARED_GRADIENTS_H_
