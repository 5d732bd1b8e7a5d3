// Which ranks are slow: how long each takes for its own part of a step, until it waits for the
// others. All ranks take the same time for a whole step, so that this alone tells them apart.
#ifndef TRAINER_RUN_RANK_TIMES_H_
#define TRAINER_RUN_RANK_TIMES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "model/parallel/communicator.h"
#include "trainer/report/metrics_log.h"

namespace salamander {

struct RankTime {
  int rank = 0;
  std::string host;
  double seconds = 0.0;  // a step's own part, on average
};

class RankTimes {
 public:
  void Add(double own_seconds);

  // Of all ranks, the slowest first, over the steps since it was last called. Collective.
  absl::StatusOr<std::vector<RankTime>> Gather(Communicator& world);

  // What to tell of a rank that is slower than the median by more than a fifth, and was in the
  // times gathered before: once is often chance. Empty where there is none.
  std::string Complaint(const std::vector<RankTime>& slowest_first);

 private:
  double sum_ = 0.0;
  int64_t steps_ = 0;
  int suspect_ = -1;
};

double MedianSeconds(const std::vector<RankTime>& sorted);  // of two in the middle, their mean

// For the step's line of metrics.jsonl: the median and the few slowest ranks.
Metrics RankMetrics(const std::vector<RankTime>& slowest_first);

}  // namespace salamander

#endif  // TRAINER_RUN_RANK_TIMES_H_
