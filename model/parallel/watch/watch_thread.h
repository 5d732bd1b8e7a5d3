// The thread behind a RankWatch, and what the process asks of it.
#ifndef MODEL_PARALLEL_WATCH_WATCH_THREAD_H_
#define MODEL_PARALLEL_WATCH_WATCH_THREAD_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"

#include "model/parallel/watch/watch_link.h"

namespace salamander {

using WatchClock = std::chrono::steady_clock;

// How often ranks tell each other that they are alive.
inline constexpr std::chrono::seconds kBeat{1};

// Who looks each beat and did not for so long was stopped meanwhile (SIGSTOP, a suspended machine).
inline constexpr double kPauseSeconds = 3.0;

// Whether more than so many seconds have passed since then; never where they are 0.
inline bool IsAfter(WatchClock::time_point then, double seconds, WatchClock::time_point now) {
  return seconds > 0 && std::chrono::duration<double>(now - then).count() > seconds;
}

class WatchThread {
 public:
  struct Failure {
    std::string what;
    int exit_code = 1;
  };

  WatchThread();
  ~WatchThread();
  WatchThread(const WatchThread&) = delete;
  WatchThread& operator=(const WatchThread&) = delete;

  // Calls `turn` again and again, until it says that all is over (false).
  void Start(std::function<bool()> turn);
  // Asks for an end in order, and waits for it.
  void Stop();
  // Asks for the end of the job, and waits until all is over, or a few seconds.
  void Fail(absl::string_view what, int exit_code);

  // For `turn`:
  bool is_stopping() const;
  std::optional<Failure> failure() const;  // given once
  // Until a socket or the process has something to say, or a fraction of a second.
  void Await(std::vector<WatchedSocket> sockets) const;

 private:
  void Wake() const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool is_stopping_ = false, is_over_ = false;
  mutable std::optional<Failure> failure_;
  int wake_ = -1;
  std::thread thread_;
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_WATCH_THREAD_H_
