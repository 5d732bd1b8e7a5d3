// Filling and copying tensors on whichever device they live.
#ifndef KERNELS_MEMORY_H_
#define KERNELS_MEMORY_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

absl::Status Zero(const ExecutionContext& context, const TensorView& tensor);

// Requires: equal dtype and size; no overlap.
absl::Status Copy(const ExecutionContext& context, const TensorView& source,
                  const TensorView& destination);

}  // namespace salamander

#endif  // KERNELS_MEMORY_H_
