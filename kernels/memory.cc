#include "kernels/memory.h"

#include "kernels/cpu/cpu_ops.h"
#include "kernels/dispatch.h"

namespace salamander {

absl::Status Zero(const ExecutionContext& context, const TensorView& tensor) {
  DISPATCH_BACKEND(Zero, context, tensor);
}

absl::Status Copy(const ExecutionContext& context, const TensorView& source,
                  const TensorView& destination) {
  SALAMANDER_CHECK(source.dtype() == destination.dtype() && source.size() == destination.size())
      << source.ShapeString() << " to " << destination.ShapeString();
  DISPATCH_BACKEND(Copy, context, source, destination);
}

}  // namespace salamander
