#include "trainer/run/stop_signal.h"

#include <array>
#include <csignal>

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// mpirun passes SIGUSR1 on to the ranks of other hosts, and neither of the others.
constexpr int kStopSignals[] = {SIGTERM, SIGINT, SIGUSR1};

// A signal handler can reach nothing but a global of this type.
volatile std::sig_atomic_t stop_asked = 0;

void AskToStop(int signal) {
  stop_asked = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  stop_asked = 0;
  for (const int signal : kStopSignals) std::signal(signal, AskToStop);
}

StopSignal::~StopSignal() {
  for (const int signal : kStopSignals) std::signal(signal, SIG_DFL);
}

absl::StatusOr<bool> StopSignal::AnyRankAsked(Communicator& ranks) const {
  std::array<int64_t, 1> asked = {stop_asked};
  RETURN_IF_ERROR(ranks.AllReduceMax(absl::MakeSpan(asked)));
  return asked[0] != 0;
}

}  // namespace salamander
