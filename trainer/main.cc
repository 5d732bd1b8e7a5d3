#include <iostream>

#include "kernels/base/logging.h"
#include "model/parallel/mpi_communicator.h"
#include "trainer/command_line.h"

namespace {

// How long a failed rank waits to learn whether all the others failed too.
constexpr double kSecondsToAgreeOnFailure = 3.0;

}  // namespace

int main(int argc, char** argv) {
  auto mpi = salamander::MpiEnvironment::Start();
  if (!mpi.ok()) {
    std::cerr << mpi.status().message() << "\n";
    return 1;
  }
  salamander::Communicator& world = (*mpi)->world();
  if (world.size() > 1) salamander::SetLogPosition({.rank = world.rank()});
  const salamander::CommandOutcome outcome = salamander::RunCommandLine(argc, argv, world);
  if (outcome.exit_code == 0) return 0;
  // An error that all ranks met is told once. A rank that failed alone tells it itself, and ends
  // the others, who may be waiting for it in a collective.
  if (!outcome.status.ok() && world.rank() == 0) salamander::LogError(outcome.status.message());
  if ((*mpi)->AllArriveWithin(kSecondsToAgreeOnFailure)) return outcome.exit_code;
  if (!outcome.status.ok() && world.rank() != 0) salamander::LogError(outcome.status.message());
  (*mpi)->Abort(outcome.exit_code, outcome.status.message());
}
