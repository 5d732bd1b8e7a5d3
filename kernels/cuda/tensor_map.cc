#include "kernels/cuda/tensor_map.h"

#include <algorithm>

#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/queue/status.h"

namespace salamander::cuda {
namespace {

constexpr int kPanelColumns = 64;
constexpr int kElementBytes = 2;

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's encoder, which the runtime finds without linking the driver.
absl::StatusOr<Encode> FindEncoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_CUDA_ERROR(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                        cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess || function == nullptr) {
    return absl::UnimplementedError(
        "the CUDA driver has no cuTensorMapEncodeTiled; a driver for CUDA 12 or newer has it");
  }
  return reinterpret_cast<Encode>(function);
}

// Strides, in bytes, are those of every dimension but the first.
template <int kRank>
absl::StatusOr<CUtensorMap> MakeMap(const TensorView& tensor, const uint64_t (&sizes)[kRank],
                                    const uint64_t (&strides)[kRank - 1],
                                    const uint32_t (&box)[kRank]) {
  static const absl::StatusOr<Encode> encode = FindEncoder();
  if (!encode.ok()) return encode.status();
  uint32_t steps[kRank];
  std::fill_n(steps, kRank, 1U);
  CUtensorMap map;
  const CUresult result =
      (*encode)(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, tensor.raw(), sizes, strides, box,
                steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InternalError(absl::StrCat("cuTensorMapEncodeTiled of ", tensor.ShapeString(),
                                            " fails with CUresult ", static_cast<int>(result)));
  }
  return map;
}

}  // namespace

absl::StatusOr<CUtensorMap> MakePanelMap(const TensorView& tensor, int rows) {
  const auto heads = static_cast<uint64_t>(tensor.dim(1));
  const auto columns = static_cast<uint64_t>(tensor.dim(2));
  const uint64_t panels = columns / kPanelColumns;
  // Columns of a panel, rows, panels, heads: the order in which a box is written.
  return MakeMap<4>(
      tensor, {kPanelColumns, static_cast<uint64_t>(tensor.dim(0)), panels, heads},
      {heads * columns * kElementBytes, kPanelColumns * kElementBytes, columns * kElementBytes},
      {kPanelColumns, static_cast<uint32_t>(rows), static_cast<uint32_t>(panels), 1});
}

absl::StatusOr<CUtensorMap> MakeRowMap(const TensorView& tensor, int rows) {
  const auto columns = static_cast<uint64_t>(tensor.dim(2));
  return MakeMap<2>(tensor, {columns, static_cast<uint64_t>(tensor.dim(0) * tensor.dim(1))},
                    {columns * kElementBytes}, {kPanelColumns, static_cast<uint32_t>(rows)});
}

}  // namespace salamander::cuda
