// Watches the collectives that are under way on a CUDA stream, from a thread of its own. A peer
// that died leaves NCCL's kernels waiting for ever; here a collective that fails or outlasts its
// time is told of once, with its name, sequence number and size.
#ifndef MODEL_PARALLEL_COLLECTIVE_WATCH_H_
#define MODEL_PARALLEL_COLLECTIVE_WATCH_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <nccl.h>

#include "absl/status/statusor.h"

namespace salamander {

class CollectiveWatch {
 public:
  struct Options {
    ncclComm_t communicator = nullptr;
    cudaStream_t stream = nullptr;
    int rank = 0;
    double timeout_seconds = 600;
    std::function<void(const absl::Status&)> on_failure;
  };
  explicit CollectiveWatch(Options options);
  ~CollectiveWatch();
  CollectiveWatch(const CollectiveWatch&) = delete;
  CollectiveWatch& operator=(const CollectiveWatch&) = delete;

  // After a collective was enqueued. Its time begins now.
  absl::Status Enqueued(const char* operation, int64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  struct Pending {
    const char* operation;
    int64_t sequence;
    int64_t bytes;
    cudaEvent_t end;
    Clock::time_point deadline;
  };

  void Watch();
  // The failure that the communicator or the oldest pending collective shows, or OK.
  absl::Status Look();
  absl::StatusOr<cudaEvent_t> TakeEvent();

  Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  int64_t sequence_ = 0;
  std::deque<Pending> pending_;
  std::vector<cudaEvent_t> spare_;
  std::thread thread_;  // last: it uses the others
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_COLLECTIVE_WATCH_H_
