// What the backend asks of the machine, apart from the calls that find out what is there.
#ifndef KERNELS_CUDA_REQUIREMENTS_H_
#define KERNELS_CUDA_REQUIREMENTS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace salamander::cuda {

// Versions as CUDA writes them: 12040 is 12.4. `driver` is the newest that the driver serves, 0
// where there is no driver; `runtime` is what the program was built with. A driver serves every
// minor version of its major one.
absl::Status CheckDriver(int driver, int runtime);

// A GPU of compute capability major.minor.
absl::Status CheckGpu(absl::string_view name, int major, int minor);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_REQUIREMENTS_H_
