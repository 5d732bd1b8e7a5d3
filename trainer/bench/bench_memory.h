// Memory of the device for a bench.
#ifndef TRAINER_BENCH_BENCH_MEMORY_H_
#define TRAINER_BENCH_BENCH_MEMORY_H_

#include "kernels/base/arena.h"
#include "kernels/device.h"

namespace salamander {

struct BenchMemory {
  DeviceSession& session;
  Arena& tensors;  // what ops run on, and a step's activations
  Arena& scratch;  // what ops use beside them
};

}  // namespace salamander

#endif  // TRAINER_BENCH_BENCH_MEMORY_H_
