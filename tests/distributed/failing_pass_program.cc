// An id outside the vocabulary in the slice of one context rank, whose neighbour then waits for it
// inside the pass: in a training step, or where streams are scored. Ends as the program's main
// does, and has to end soon.
#include <cstring>
#include <iostream>
#include <memory>

#include "kernels/base/logging.h"
#include "model/parallel/mpi_communicator.h"
#include "tests/trainer/step_problem.h"
#include "trainer/evaluate/token_scores.h"

namespace salamander {
namespace {

PackedStream BadSequence(int64_t n) {
  PackedStream sequence = StepProblem::Sequence(n);
  if (n == 1) sequence.tokens.back() = 1000;
  return sequence;
}

absl::Status Step(StepProblem& problem) {
  return problem.Step(0, {.sequences = 2}, {.sequence_at = &BadSequence}).status();
}

absl::Status Score(StepProblem& problem) {
  const TestContext context;
  const ParallelContext& parallel = problem.parallel();
  const auto slice_at = [&](int64_t n) { return ShareOfContext(BadSequence(n), parallel); };
  return ScoreStreams({.execution = context, .model = problem.model(), .parallel = &parallel},
                      slice_at, 2, ScoringRanks(parallel))
      .status();
}

int Main(int argc, char** argv) {
  const auto mpi = MpiEnvironment::Start();
  if (!mpi.ok()) {
    std::cerr << mpi.status() << "\n";
    return 2;
  }
  absl::Status status;
  {
    Communicator& world = (*mpi)->world();
    StepProblem problem(world, {.data = world.size() / 2, .context = 2});
    status = argc > 1 && std::strcmp(argv[1], "score") == 0 ? Score(problem) : Step(problem);
  }
  if (status.ok() || (*mpi)->AllArriveWithin(1.0)) return 0;
  LogError(status.message());
  (*mpi)->Abort(1, status.message());
}

}  // namespace
}  // namespace salamander

int main(int argc, char** argv) {
  return salamander::Main(argc, argv);
}
