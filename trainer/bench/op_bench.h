// Times each op of a model by itself, with the device's caches flushed.
#ifndef TRAINER_BENCH_OP_BENCH_H_
#define TRAINER_BENCH_OP_BENCH_H_

#include <cstdint>
#include <regex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "model/config.h"
#include "trainer/bench/bench_memory.h"
#include "trainer/bench/bench_row.h"

namespace salamander {

// What --only says: a regular expression in part of an op's name; empty: every op.
absl::StatusOr<std::regex> OnlyPattern(const std::string& only);

struct OpBenchOptions {
  ModelConfig config;
  int64_t tokens = 0;  // of one document
  std::regex only;
  int repetitions = 10;
};

// One row an op. A case that the backend cannot run is a failure that names it.
absl::StatusOr<std::vector<BenchRow>> BenchOps(const BenchMemory& memory, const Ceilings& ceilings,
                                               const OpBenchOptions& options);

}  // namespace salamander

#endif  // TRAINER_BENCH_OP_BENCH_H_
