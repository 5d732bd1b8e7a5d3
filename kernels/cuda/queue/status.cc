#include "kernels/cuda/queue/status.h"

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"

namespace salamander::cuda {

std::string FailedCall(const std::string& call, const char* file, int line) {
  int device = -1;
  cudaGetDevice(&device);
  const int rank = GetLogPosition().rank;
  return absl::StrCat(rank < 0 ? "" : absl::StrCat("rank ", rank, ", "), "device ", device, ", ",
                      file, ":", line, ": ", call);
}

absl::Status CudaFailure(cudaError_t error, const char* call, const char* file, int line) {
  const std::string message =
      absl::StrCat(FailedCall(call, file, line), ": ", cudaGetErrorName(error), " (",
                   cudaGetErrorString(error), ")");
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError(absl::StrCat(
        message, "; use shorter sequences, smaller micro-batches or more recomputation"));
  }
  return absl::InternalError(message);
}

absl::Status CublasFailure(cublasStatus_t status, const char* call, const char* file, int line) {
  return absl::InternalError(absl::StrCat(FailedCall(call, file, line), ": ",
                                          cublasLtGetStatusName(status), " (",
                                          cublasLtGetStatusString(status), ")"));
}

}  // namespace salamander::cuda
