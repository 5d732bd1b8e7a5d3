// The watch of every rank but the first: one link, to rank 0's.
#ifndef MODEL_PARALLEL_WATCH_MEMBER_WATCH_H_
#define MODEL_PARALLEL_WATCH_MEMBER_WATCH_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/parallel/watch/rank_watch.h"
#include "model/parallel/watch/verdict.h"
#include "model/parallel/watch/watch_link.h"
#include "model/parallel/watch/watch_thread.h"

namespace salamander {

class MemberWatch : public RankWatch {
 public:
  static absl::StatusOr<std::unique_ptr<RankWatch>> Join(const RankWatchOptions& options,
                                                         const CollectiveLog& log,
                                                         const std::string& addresses);
  ~MemberWatch() override;

  std::string addresses() const override { return ""; }
  void TellFailure(absl::string_view what, int exit_code) override;

 private:
  MemberWatch(const RankWatchOptions& options, const CollectiveLog& log,
              WatchConnection connection);

  bool Turn();
  void Take(const WatchMessage& message);
  void Send(WatchMessageKind kind, absl::string_view text = "", int exit_code = 0);
  bool EndWithoutHub(const std::string& what);
  bool End();  // these two: false, for Turn

  RankWatchOptions options_;
  const CollectiveLog& log_;
  std::unique_ptr<WatchLink> link_;
  DatedRecord hub_;  // as last heard
  WatchClock::time_point heard_ = WatchClock::now();
  WatchClock::time_point looked_ = WatchClock::now();
  WatchClock::time_point told_;
  std::optional<WatchClock::time_point> parted_;  // goodbye was said
  bool is_ended_ = false;                         // the job, says rank 0
  int exit_code_ = 1;
  WatchThread thread_;  // last: it uses the others
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_MEMBER_WATCH_H_
