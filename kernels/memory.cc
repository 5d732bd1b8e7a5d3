#include "kernels/memory.h"

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

absl::Status Add(const ExecutionContext& context, const TensorView& source,
                 const TensorView& destination) {
  SALAMANDER_CHECK(source.dtype() == destination.dtype() && source.size() == destination.size() &&
                   (source.dtype() == DType::kFloat32 || source.dtype() == DType::kFloat64))
      << source.ShapeString() << " to " << destination.ShapeString();
  DISPATCH_BACKEND(Add, context, source, destination);
}

absl::Status JoinColumns(const ExecutionContext& context, const TensorView& source, int64_t parts,
                         const TensorView& destination) {
  SALAMANDER_CHECK(source.dtype() == destination.dtype() && source.size() == destination.size() &&
                   source.dim(0) % parts == 0 && source.dim(0) == parts * destination.dim(0))
      << source.ShapeString() << " of " << parts << " parts to " << destination.ShapeString();
  DISPATCH_BACKEND(JoinColumns, context, source, parts, destination);
}

absl::Status Convert(const ExecutionContext& context, const TensorView& source,
                     const TensorView& destination) {
  SALAMANDER_CHECK(source.size() == destination.size())
      << source.ShapeString() << " to " << destination.ShapeString();
  DISPATCH_BACKEND(Convert, context, source, destination);
}

absl::Status CopyFromHost(const ExecutionContext& context, const void* host,
                          const TensorView& destination) {
  DISPATCH_BACKEND(CopyFromHost, context, host, destination);
}

absl::Status CopyToHost(const ExecutionContext& context, const TensorView& source, void* host) {
  DISPATCH_BACKEND(CopyToHost, context, source, host);
}

}  // namespace salamander
