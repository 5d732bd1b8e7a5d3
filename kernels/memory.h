// Filling and copying tensors on whichever device they live, and the way between host and device.
#ifndef KERNELS_MEMORY_H_
#define KERNELS_MEMORY_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

absl::Status Zero(const ExecutionContext& context, const TensorView& tensor);

// Requires: equal dtype and size; no overlap.
absl::Status Copy(const ExecutionContext& context, const TensorView& source,
                  const TensorView& destination);

// destination += source; fp32 or fp64.
absl::Status Add(const ExecutionContext& context, const TensorView& source,
                 const TensorView& destination);

// destination [N, parts, ...] = source [parts, N, ...], of any dtype: columns that came part by
// part stand side by side. Requires: no overlap.
absl::Status JoinColumns(const ExecutionContext& context, const TensorView& source, int64_t parts,
                         const TensorView& destination);

// Between float dtypes, narrowing to nearest, ties to even: any two on the CPU, fp32 and bf16 on
// CUDA.
absl::Status Convert(const ExecutionContext& context, const TensorView& source,
                     const TensorView& destination);

// `host` is free again on return; the copy is on its way.
absl::Status CopyFromHost(const ExecutionContext& context, const void* host,
                          const TensorView& destination);

// Waits for the context's stream: `host` holds the tensor on return. Faults of kernels enqueued so
// far come back here (kernels/device.h).
absl::Status CopyToHost(const ExecutionContext& context, const TensorView& source, void* host);

// The values in the context's arena, on its device.
template <typename Element>
absl::StatusOr<TensorView> FromHost(const ExecutionContext& context,
                                    absl::Span<const Element> values) {
  const TensorView tensor =
      context.arena->Tensor(DTypeOf<Element>::value, {static_cast<int64_t>(values.size())});
  const absl::Status status = CopyFromHost(context, values.data(), tensor);
  if (!status.ok()) return status;
  return tensor;
}

}  // namespace salamander

#endif  // KERNELS_MEMORY_H_
