// Times ops and whole training steps against the machine's own ceilings.
#ifndef TRAINER_BENCH_BENCH_H_
#define TRAINER_BENCH_BENCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/arena.h"
#include "kernels/device.h"
#include "model/config.h"
#include "model/recomputation.h"
#include "trainer/bench/ceilings.h"

namespace salamander {

struct BenchRow {
  std::string name;
  std::string shape;
  double seconds = 0.0;         // median
  double spread = 0.0;          // (slowest - fastest) / median
  double flops = 0.0;           // 0 where bytes are what counts
  double bytes = 0.0;           // least traffic
  double share_of_ceiling = 0;  // of the nearer one: operations or bytes
};

struct BenchOptions {
  ModelConfig config;
  int64_t tokens = 0;
  std::string only;  // a regular expression that names must match; empty: all
  int repetitions = 10;
  Recomputation recomputation = Recomputation::kNone;  // of whole steps
};

// Memory of the device for a bench: the cases' tensors, and what ops use beside them.
struct BenchMemory {
  DeviceSession& session;
  Arena& tensors;
  Arena& scratch;
};

// One row an op. A case that the backend cannot run is a failure that names it.
absl::StatusOr<std::vector<BenchRow>> BenchOps(const BenchMemory& memory, const Ceilings& ceilings,
                                               const BenchOptions& options);

// Forward, next-token loss and backward of the whole model over one document, no optimizer. The
// pass takes its memory from `tensors`.
absl::StatusOr<BenchRow> BenchStep(const BenchMemory& memory, const Ceilings& ceilings,
                                   const BenchOptions& options);

}  // namespace salamander

#endif  // TRAINER_BENCH_BENCH_H_
