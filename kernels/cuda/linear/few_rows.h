// Products of a few rows with a weight, as a step of generation runs them: bound by reading the
// weight once.
#ifndef KERNELS_CUDA_LINEAR_FEW_ROWS_H_
#define KERNELS_CUDA_LINEAR_FEW_ROWS_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/cuda/linear/products.h"

namespace salamander::cuda {

// Whether the product is a b^T of at most eight rows, at places and of a length of sum that vector
// loads fit.
bool IsOfFewRows(const Product& product);

// Enqueues the product. Deterministic, and a row of the result depends on no other row nor on how
// many there are. Requires: IsOfFewRows(product).
absl::Status RunFewRows(const ExecutionContext& context, const Product& product);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LINEAR_FEW_ROWS_H_
