// The second step of a sum over rows, as in a norm's weight gradient: partial sums, made by a
// partition of the rows that depends on the shape alone, added up in a fixed order.
#ifndef KERNELS_CUDA_ROWS_COLUMN_SUMS_H_
#define KERNELS_CUDA_ROWS_COLUMN_SUMS_H_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"

namespace salamander::cuda {

// sums[c] += sum over p of partials[p, c], partials [count, width].
absl::Status AddColumnSums(const ExecutionContext& context, const float* partials, int64_t count,
                           int64_t width, float* sums);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ROWS_COLUMN_SUMS_H_
