// Opens a CUDA device for kernels/device.h, without a CUDA type in sight.
#ifndef KERNELS_CUDA_SESSION_H_
#define KERNELS_CUDA_SESSION_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "kernels/device.h"

namespace salamander::cuda {

int DeviceCount();

// Why that is 0 although a driver is installed, or empty.
std::string Complaint();
absl::StatusOr<std::string> IdentityOf(int index);
absl::StatusOr<std::unique_ptr<DeviceSession>> OpenSession(int index, const DeviceOptions& options);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_SESSION_H_
