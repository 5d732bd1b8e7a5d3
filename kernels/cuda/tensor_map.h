// Where the bulk copies of Hopper (TMA) find the rows of an attention tensor.
#ifndef KERNELS_CUDA_TENSOR_MAP_H_
#define KERNELS_CUDA_TENSOR_MAP_H_

#include <cstdint>

#include <cuda.h>

#include "absl/status/statusor.h"

#include "kernels/base/tensor_view.h"

namespace salamander::cuda {

// Of `tensor` [T, H, D] of bf16, D a multiple of 64 and 16-byte aligned: boxes of `rows` rows of
// one head, at coordinates {0, row, 0, head}, land as D / 64 panels of warpgroup.cuh, one after
// another. Rows beyond the tensor's land as zeros.
absl::StatusOr<CUtensorMap> MakePanelMap(const TensorView& tensor, int rows);

// Of `tensor` [T, H, D] as T * H rows: boxes of 64 columns of `rows` rows, at coordinates {column,
// row}, land as rows of a panel.
absl::StatusOr<CUtensorMap> MakeRowMap(const TensorView& tensor, int rows);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_TENSOR_MAP_H_
