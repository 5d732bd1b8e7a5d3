// SIGTERM, SIGINT and SIGUSR1 ask a run to save and stop. The handler only sets a flag; the loop
// asks for it after each step.
#ifndef TRAINER_RUN_STOP_SIGNAL_H_
#define TRAINER_RUN_STOP_SIGNAL_H_

#include "absl/status/statusor.h"

#include "model/parallel/communicator.h"

namespace salamander {

// Installs the handlers for its lifetime. A second signal ends the process at once, as it would
// have without.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Whether any rank was asked to stop. Collective: every rank gets the same answer.
  absl::StatusOr<bool> AnyRankAsked(Communicator& ranks) const;
};

}  // namespace salamander

#endif  // TRAINER_RUN_STOP_SIGNAL_H_
