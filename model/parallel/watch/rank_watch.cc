#include "model/parallel/watch/rank_watch.h"

#include "model/parallel/watch/hub_watch.h"
#include "model/parallel/watch/member_watch.h"

namespace salamander {

absl::StatusOr<std::unique_ptr<RankWatch>> RankWatch::Open(const RankWatchOptions& options,
                                                           const CollectiveLog& log) {
  return HubWatch::Open(options, log);
}

absl::StatusOr<std::unique_ptr<RankWatch>> RankWatch::Join(const RankWatchOptions& options,
                                                           const CollectiveLog& log,
                                                           const std::string& addresses) {
  return MemberWatch::Join(options, log, addresses);
}

}  // namespace salamander
