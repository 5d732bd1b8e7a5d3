#include "kernels/cuda/requirements.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace salamander::cuda {
namespace {

constexpr int kLeastMajor = 8;  // bf16 tensor cores and cp.async

std::string VersionString(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

}  // namespace

absl::Status CheckDriver(int driver, int runtime) {
  if (driver == 0) {
    return absl::FailedPreconditionError(
        "device: cuda was asked for and no NVIDIA driver was found; install one, check "
        "`nvidia-smi`, or use device: cpu");
  }
  if (driver / 1000 >= runtime / 1000) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the NVIDIA driver serves CUDA ", VersionString(driver),
                   " and this program was built with CUDA ", VersionString(runtime),
                   "; update the driver, build with an older toolkit, or use device: cpu"));
}

absl::Status CheckGpu(absl::string_view name, int major, int minor) {
  if (major >= kLeastMajor) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(name, " has compute capability ", major, ".",
                                                    minor, "; the CUDA backend needs ", kLeastMajor,
                                                    ".0 (A100) or newer, use device: cpu"));
}

}  // namespace salamander::cuda
