// Rank 0's watch: a link to every other rank's, and the verdict on all of them.
#ifndef MODEL_PARALLEL_WATCH_HUB_WATCH_H_
#define MODEL_PARALLEL_WATCH_HUB_WATCH_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/parallel/watch/rank_watch.h"
#include "model/parallel/watch/verdict.h"
#include "model/parallel/watch/watch_link.h"
#include "model/parallel/watch/watch_thread.h"

namespace salamander {

class HubWatch : public RankWatch {
 public:
  static absl::StatusOr<std::unique_ptr<RankWatch>> Open(const RankWatchOptions& options,
                                                         const CollectiveLog& log);
  ~HubWatch() override;

  std::string addresses() const override { return door_->addresses(); }
  void TellFailure(absl::string_view what, int exit_code) override;

 private:
  struct Member {
    std::unique_ptr<WatchLink> link;
    DatedRecord dated;  // as last heard
    WatchClock::time_point heard;
    bool said_goodbye = false;
  };
  // Has not said hello.
  struct Stranger {
    std::unique_ptr<WatchLink> link;
    WatchClock::time_point came;
  };
  // A rank at fault, by rank.
  struct Loss {
    DatedRecord dated;
    std::string what;
  };

  HubWatch(const RankWatchOptions& options, const CollectiveLog& log,
           std::unique_ptr<WatchDoor> door);

  bool Turn();
  std::vector<WatchedSocket> Sockets() const;  // all that are open
  void Admit(WatchClock::time_point now);
  bool IsExpected(const WatchMessage& message) const;  // the hello of a rank that has not come yet
  void Listen(WatchClock::time_point now);
  void Take(const WatchMessage& message, Member& member);
  void NoticePause(WatchClock::time_point now);
  void LookForSilence(WatchClock::time_point now);
  void LookForLateness(WatchClock::time_point now);

  // The job ends a moment later: ranks that die together are told of together, and ranks of a lost
  // one's host are asked what it left.
  void Lose(const DatedRecord& dated, const std::string& what, int exit_code = 1);
  void Condemn(int exit_code);
  void EndJob();

  RankWatchOptions options_;
  const CollectiveLog& log_;
  std::unique_ptr<WatchDoor> door_;
  std::vector<Stranger> strangers_;  // as they came
  std::map<int, Member> members_;
  std::map<int, DatedRecord> left_;  // the ranks that were members and ended in order
  std::map<int, Loss> losses_;
  std::string stuck_;  // where no rank is to blame
  std::optional<WatchClock::time_point> verdict_at_;
  WatchClock::time_point looked_ = WatchClock::now();
  WatchClock::time_point resumed_ = looked_;  // after the last pause of this process
  WatchClock::time_point told_;
  int exit_code_ = 1;
  WatchThread thread_;  // last: it uses the others
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_HUB_WATCH_H_
