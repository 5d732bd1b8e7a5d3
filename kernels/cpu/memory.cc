#include <cstring>

#include "kernels/cpu/cpu_ops.h"

namespace salamander::cpu {

absl::Status Zero(const ExecutionContext&, const TensorView& tensor) {
  std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
  return absl::OkStatus();
}

absl::Status Copy(const ExecutionContext&, const TensorView& source,
                  const TensorView& destination) {
  std::memcpy(destination.raw(), source.raw(), static_cast<size_t>(source.bytes()));
  return absl::OkStatus();
}

}  // namespace salamander::cpu
