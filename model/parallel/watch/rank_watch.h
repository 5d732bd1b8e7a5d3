// Watches the ranks of a job, from a thread of each: one that dies, falls silent, fails by itself
// or stays away from a collective ends the job on all ranks, and is named, with its host and its
// last collective. Rank 0 is the hub: every other rank tells it each second that it is alive and
// where it is, and hears the same from it.
#ifndef MODEL_PARALLEL_WATCH_RANK_WATCH_H_
#define MODEL_PARALLEL_WATCH_RANK_WATCH_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/parallel/watch/collective_log.h"
#include "model/parallel/watch/watch_limits.h"

namespace salamander {

struct RankWatchOptions {
  std::string token;  // the same on every rank of the job, and known to nobody else
  int ranks = 1;      // of the job
  WatchLimits limits;
  // From the watch's thread. `end_process` comes last, with the exit code, and need not return.
  std::function<void(const std::string&)> tell;
  std::function<void(int)> end_process;
};

class RankWatch {
 public:
  // Rank 0's. `log` outlives the watch.
  static absl::StatusOr<std::unique_ptr<RankWatch>> Open(const RankWatchOptions& options,
                                                         const CollectiveLog& log);
  // Another rank's; `addresses` are those of rank 0's.
  static absl::StatusOr<std::unique_ptr<RankWatch>> Join(const RankWatchOptions& options,
                                                         const CollectiveLog& log,
                                                         const std::string& addresses);
  // An end in order, which on rank 0 waits for that of every rank that joined.
  virtual ~RankWatch() = default;

  // Where rank 0's can be reached; empty on the others.
  virtual std::string addresses() const = 0;

  // This rank is about to end the job with that exit code. Returns once the others were told, or
  // after a few seconds.
  virtual void TellFailure(absl::string_view what, int exit_code) = 0;
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_RANK_WATCH_H_
