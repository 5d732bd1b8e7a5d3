// How a kernel tells of bad data: it writes the first fault it meets here and goes on without the
// row; the next wait for the stream turns it into an absl::Status.
#ifndef KERNELS_CUDA_QUEUE_FAULT_H_
#define KERNELS_CUDA_QUEUE_FAULT_H_

namespace salamander::cuda {

enum class FaultKind : int { kNone = 0, kTokenOutsideVocabulary, kTargetOutsideVocabulary };

struct Fault {
  int kind = 0;         // a FaultKind
  int value = 0;        // what was found
  long long row = 0;    // NOLINT(google-runtime-int): atomics know no int64_t
  long long bound = 0;  // NOLINT(google-runtime-int)
};

#ifdef __CUDACC__
__device__ inline void ReportFault(Fault* fault, FaultKind kind, long long row, int value,
                                   long long bound) {
  if (atomicCAS(&fault->kind, 0, static_cast<int>(kind)) != 0) return;
  fault->value = value;
  fault->row = row;
  fault->bound = bound;
}
#endif

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_QUEUE_FAULT_H_
