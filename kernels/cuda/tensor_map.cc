#include "kernels/cuda/tensor_map.h"

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

}  // namespace

absl::StatusOr<CUtensorMap> MakePanelMap(const TensorView& tensor, int rows) {
  static const absl::StatusOr<Encode> encode = FindEncoder();
  if (!encode.ok()) return encode.status();
  const auto heads = static_cast<uint64_t>(tensor.dim(1));
  const auto columns = static_cast<uint64_t>(tensor.dim(2));
  const uint64_t panels = columns / kPanelColumns;
  // Columns of a panel, rows, panels, heads: the order in which a box is written.
  const uint64_t sizes[] = {kPanelColumns, static_cast<uint64_t>(tensor.dim(0)), panels, heads};
  const uint64_t strides[] = {heads * columns * kElementBytes, kPanelColumns * kElementBytes,
                              columns * kElementBytes};
  const uint32_t box[] = {kPanelColumns, static_cast<uint32_t>(rows), static_cast<uint32_t>(panels),
                          1};
  const uint32_t steps[] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      (*encode)(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, tensor.raw(), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InternalError(absl::StrCat("cuTensorMapEncodeTiled of ", tensor.ShapeString(),
                                            " fails with CUresult ", static_cast<int>(result)));
  }
  return map;
}

}  // namespace salamander::cuda
