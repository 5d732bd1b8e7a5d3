// Times a whole training step.
#ifndef TRAINER_BENCH_STEP_BENCH_H_
#define TRAINER_BENCH_STEP_BENCH_H_

#include <cstdint>

#include "absl/status/statusor.h"

#include "model/recomputation.h"
#include "trainer/bench/bench_memory.h"
#include "trainer/bench/bench_row.h"
#include "trainer/bench/random_model.h"

namespace salamander {

struct StepBenchOptions {
  int64_t tokens = 0;  // of one document
  Recomputation recomputation = Recomputation::kNone;
  int repetitions = 10;
};

// Forward, next-token loss and backward of the model, no optimizer. The pass takes its memory from
// `tensors`, gradients of the parameters from the session.
absl::StatusOr<BenchRow> BenchStep(const BenchMemory& memory, const Ceilings& ceilings,
                                   const RandomModel& model, const StepBenchOptions& options);

}  // namespace salamander

#endif  // TRAINER_BENCH_STEP_BENCH_H_
