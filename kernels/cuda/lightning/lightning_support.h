// Which tensors the Lightning kernels take.
#ifndef KERNELS_CUDA_LIGHTNING_LIGHTNING_SUPPORT_H_
#define KERNELS_CUDA_LIGHTNING_LIGHTNING_SUPPORT_H_

#include <initializer_list>

#include "absl/status/status.h"

#include "kernels/base/tensor_view.h"

namespace salamander::cuda {

// Of queries (or keys) [T, H, D] and every tensor of a call.
absl::Status CheckLightningSupported(const char* op, const TensorView& queries,
                                     std::initializer_list<TensorView> tensors);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_SUPPORT_H_
