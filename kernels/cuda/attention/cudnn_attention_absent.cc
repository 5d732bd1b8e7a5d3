// A build without cuDNN.
#include "kernels/cuda/attention/cudnn_attention.h"

namespace salamander::cuda {

std::unique_ptr<CudnnAttention> CudnnAttention::Open(cudaStream_t /*stream*/,
                                                     const cudaDeviceProp& /*device*/) {
  return nullptr;
}

}  // namespace salamander::cuda
