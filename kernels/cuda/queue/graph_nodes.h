// The parameters of graph nodes, as recorder and reviser both write them.
#ifndef KERNELS_CUDA_QUEUE_GRAPH_NODES_H_
#define KERNELS_CUDA_QUEUE_GRAPH_NODES_H_

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/cuda/queue/queue.h"

namespace salamander::cuda {

// The addresses in `launch` outlive the use.
inline cudaKernelNodeParams KernelNode(const KernelLaunch& launch) {
  cudaKernelNodeParams node = {};
  node.func = const_cast<void*>(launch.kernel);
  node.gridDim = Dimensions(launch.grid);
  node.blockDim = launch.block;
  node.sharedMemBytes = static_cast<unsigned>(launch.shared_bytes);
  node.kernelParams = launch.arguments.data();
  return node;
}

inline cudaMemsetParams FillNode(void* destination, int byte, int64_t bytes) {
  cudaMemsetParams node = {};
  node.dst = destination;
  node.value = static_cast<unsigned>(byte & 0xFF);
  node.elementSize = 1;
  node.width = static_cast<size_t>(bytes);
  node.height = 1;
  return node;
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_QUEUE_GRAPH_NODES_H_
