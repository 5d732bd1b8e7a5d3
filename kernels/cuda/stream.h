// A CUDA device's stream as a library outside this folder sees it: to enqueue on, and to tell how
// far it has come. Shows no CUDA header.
#ifndef KERNELS_CUDA_STREAM_H_
#define KERNELS_CUDA_STREAM_H_

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"

struct CUevent_st;   // cudaEvent_t points to it
struct CUstream_st;  // cudaStream_t points to it

namespace salamander::cuda {

CUstream_st* StreamOf(const ExecutionContext& context);

// Marks among the work of a context's stream, which passes them one after another.
class StreamMarks {
 public:
  explicit StreamMarks(const ExecutionContext& context) : context_(context) {}
  ~StreamMarks();
  StreamMarks(const StreamMarks&) = delete;
  StreamMarks& operator=(const StreamMarks&) = delete;

  // Enqueues a mark behind all that the stream holds.
  absl::Status Enqueue();

  // How many marks the stream has passed, or the error that keeps it from passing more. Does not
  // wait. For any thread; its current device becomes the context's.
  absl::StatusOr<int64_t> Passed();

 private:
  ExecutionContext context_;
  std::mutex mutex_;
  int64_t passed_ = 0;
  std::deque<CUevent_st*> ahead_;  // marks that were not passed when last asked
  std::vector<CUevent_st*> spare_;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_STREAM_H_
