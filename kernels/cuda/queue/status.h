// The one way an error of CUDA or its libraries becomes an absl::Status: rank, device, file:line,
// the call and what the library said of it.
#ifndef KERNELS_CUDA_QUEUE_STATUS_H_
#define KERNELS_CUDA_QUEUE_STATUS_H_

#include <string>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "absl/status/status.h"

namespace salamander::cuda {

// How such an error begins: "rank 3, device 1, kernels/cuda/linear/linear.cc:41:
// cublasLtMatmul(...)".
std::string FailedCall(const std::string& call, const char* file, int line);

absl::Status CudaFailure(cudaError_t error, const char* call, const char* file, int line);
absl::Status CublasFailure(cublasStatus_t status, const char* call, const char* file, int line);

}  // namespace salamander::cuda

#define RETURN_IF_CUDA_ERROR(call)                                                         \
  do {                                                                                     \
    if (const cudaError_t cuda_error_value = (call); cuda_error_value != cudaSuccess) {    \
      return ::salamander::cuda::CudaFailure(cuda_error_value, #call, __FILE__, __LINE__); \
    }                                                                                      \
  } while (false)

#define RETURN_IF_CUBLAS_ERROR(call)                                                          \
  do {                                                                                        \
    if (const cublasStatus_t blas_status_value = (call);                                      \
        blas_status_value != CUBLAS_STATUS_SUCCESS) {                                         \
      return ::salamander::cuda::CublasFailure(blas_status_value, #call, __FILE__, __LINE__); \
    }                                                                                         \
  } while (false)

#endif  // KERNELS_CUDA_QUEUE_STATUS_H_
