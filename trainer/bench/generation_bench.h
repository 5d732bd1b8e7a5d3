// Times what generation asks of a model: prompts, and steps of one token a sequence. By the wall
// clock, since the host's share counts: a generation waits for every token.
#ifndef TRAINER_BENCH_GENERATION_BENCH_H_
#define TRAINER_BENCH_GENERATION_BENCH_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/dtype.h"
#include "model/config.h"
#include "trainer/bench/bench_row.h"
#include "trainer/generate/cached_call.h"

namespace salamander {

struct DecodeBenchOptions {
  int64_t sequences = 1;
  int64_t length = 0;  // of each sequence, its cache filled with zeros, before the first step
  int steps = 100;
};

// A row of steps whose ops are enqueued one by one, and a row of replayed steps.
absl::StatusOr<std::vector<BenchRow>> BenchDecode(const Generator& generator,
                                                  const Ceilings& ceilings,
                                                  const DecodeBenchOptions& options);

// What a step reads of weights, caches and states, and what it writes of states.
double DecodeStepBytes(const ModelConfig& config, DType activations, int64_t sequences,
                       int64_t length);

// One prompt, in pieces as Generate takes it, to the choice of its first token.
absl::StatusOr<BenchRow> BenchPrefill(const Generator& generator, const Ceilings& ceilings,
                                      int64_t length, int repetitions);

}  // namespace salamander

#endif  // TRAINER_BENCH_GENERATION_BENCH_H_
