#include "kernels/cuda/lightning/lightning_support.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace salamander::cuda {
namespace {

constexpr int64_t kDimStep = 16;
constexpr int64_t kLargestDim = 128;
constexpr uintptr_t kAlignment = 16;

}  // namespace

absl::Status CheckLightningSupported(const char* op, const TensorView& queries,
                                     std::initializer_list<TensorView> tensors) {
  const int64_t dim = queries.dim(2);
  if (dim % kDimStep != 0 || dim > kLargestDim) {
    return absl::UnimplementedError(
        absl::StrCat(op, ": head dim ", dim, " on CUDA; built are 16 to ", kLargestDim,
                     " in steps of ", kDimStep, "; use one of them, or device: cpu"));
  }
  for (const TensorView& tensor : tensors) {
    if (reinterpret_cast<uintptr_t>(tensor.raw()) % kAlignment != 0) {
      return absl::UnimplementedError(absl::StrCat(op, ": ", tensor.ShapeString(),
                                                   " begins at an address that ", kAlignment,
                                                   " does not divide; take it from an arena"));
    }
  }
  return absl::OkStatus();
}

}  // namespace salamander::cuda
