#include "trainer/run/stop_signal.h"

#include <array>
#include <csignal>

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// A signal handler can reach nothing but a global of this type.
volatile std::sig_atomic_t stop_asked = 0;

void AskToStop(int signal) {
  stop_asked = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  stop_asked = 0;
  std::signal(SIGTERM, AskToStop);
  std::signal(SIGINT, AskToStop);
}

StopSignal::~StopSignal() {
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
}

absl::StatusOr<bool> StopSignal::AnyRankAsked(Communicator& ranks) const {
  std::array<int64_t, 1> asked = {stop_asked};
  RETURN_IF_ERROR(ranks.AllReduceMax(absl::MakeSpan(asked)));
  return asked[0] != 0;
}

}  // namespace salamander
