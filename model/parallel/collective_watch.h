// Watches the collectives that are under way on a device, from a thread of its own. A peer that
// died leaves a device waiting for ever; here a collective that fails or outlasts its time is told
// of once, with its name, number and size.
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

#include "absl/status/statusor.h"

#include "model/parallel/watch/collective_log.h"

namespace salamander {

class CollectiveWatch {
 public:
  struct Options {
    int rank = 0;
    double timeout_seconds = 600;  // 0: no limit
    // Where each is kept from its beginning to its end, under the group's name; nullptr: nowhere.
    // Outlives the watch.
    CollectiveLog* log = nullptr;
    std::string group = {};
    // How many collectives have ended, in the order they were begun, or what went wrong. Called
    // from the watch's thread.
    std::function<absl::StatusOr<int64_t>()> ended;
    // Called once, from the watch's thread.
    std::function<void(const absl::Status&)> on_failure;
  };
  explicit CollectiveWatch(Options options);
  ~CollectiveWatch();
  CollectiveWatch(const CollectiveWatch&) = delete;
  CollectiveWatch& operator=(const CollectiveWatch&) = delete;

  // Before a collective is enqueued, since that may wait for peers already. Its time begins now.
  void Begin(const char* operation, int64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  struct Pending {
    const char* operation;
    int64_t number;  // from 1
    int64_t bytes;
    int64_t logged;  // its number in the log
    Clock::time_point begun;
  };

  void Watch();
  void Pop();
  // What went wrong with the oldest collective that has not ended, or OK.
  absl::Status Look();

  Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  int64_t begun_ = 0;
  std::deque<Pending> pending_;
  Clock::time_point looked_ = Clock::now();
  Clock::time_point resumed_ = looked_;  // after the last pause of the process: all count from it
  std::thread thread_;                   // last: it uses the others
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_COLLECTIVE_WATCH_H_
