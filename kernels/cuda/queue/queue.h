// Where the work of ops goes. Ops hand kernels, fills, copies and calls of libraries to the
// runtime's queue and know nothing of what becomes of them:
//   StreamQueue    (stream_queue.h)    the device's stream takes them at once
//   PlanningQueue  (planning_queue.h)  nothing does: an op only takes its scratch memory
//   GraphRecorder, GraphReviser (graph_recording.h)  they become the nodes of a graph, or are held
//                                      against one
#ifndef KERNELS_CUDA_QUEUE_QUEUE_H_
#define KERNELS_CUDA_QUEUE_QUEUE_H_

#include <cstdint>

#include <cuda_runtime.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace salamander::cuda {

struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

struct KernelLaunch {
  const char* name;
  const void* kernel;
  Grid grid;
  dim3 block;
  int64_t shared_bytes;
  absl::Span<void*> arguments;      // address of each
  absl::Span<const int64_t> sizes;  // bytes of each
};

// Work that a library enqueues by itself.
struct LibraryCall {
  const char* name;
  absl::Span<const uint64_t> identity;  // calls that are equal in it enqueue the same work
  absl::FunctionRef<absl::Status(cudaStream_t stream)> enqueue;
};

class Queue {
 public:
  virtual ~Queue() = default;

  virtual absl::Status Launch(const KernelLaunch& launch) = 0;
  virtual absl::Status Call(const LibraryCall& call) = 0;
  // Every byte of device memory becomes `byte`.
  virtual absl::Status Fill(void* destination, int byte, int64_t bytes) = 0;
  // Within the device.
  virtual absl::Status Copy(const void* source, void* destination, int64_t bytes) = 0;
  // From the host, whose memory is free on return.
  virtual absl::Status Upload(const void* host, void* destination, int64_t bytes) = 0;
  // To the host, which holds it once the stream has been waited for.
  virtual absl::Status Download(const void* source, void* host, int64_t bytes) = 0;
  // Whether the ops may wait here for what they handed over; the runtime waits for the stream.
  virtual absl::Status Wait() { return absl::OkStatus(); }
};

inline uint64_t WordOf(const void* address) {
  return reinterpret_cast<uintptr_t>(address);
}

inline dim3 Dimensions(const Grid& grid) {
  return {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
          static_cast<unsigned>(grid.z)};
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_QUEUE_QUEUE_H_
