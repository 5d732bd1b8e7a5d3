// What is timed as one row: of a table to read, and of a JSON file.
#ifndef TRAINER_BENCH_BENCH_ROW_H_
#define TRAINER_BENCH_BENCH_ROW_H_

#include <string>
#include <vector>

#include "kernels/device.h"
#include "trainer/ceilings/ceilings.h"

namespace salamander {

struct Work {
  double flops = 0.0;   // 0 where bytes are what counts
  double bytes = 0.0;   // least traffic
  double tokens = 0.0;  // that a model takes or makes; 0 for ops
};

struct BenchRow {
  std::string name;
  std::string shape;
  Work work;
  double seconds = 0.0;         // median
  double spread = 0.0;          // (slowest - fastest) / median
  double share_of_ceiling = 0;  // of the nearer one: operations or bytes
};

// Requires: `seconds` is not empty.
BenchRow RowOf(std::string name, std::string shape, const Work& work,
               const std::vector<double>& seconds, const Ceilings& ceilings);

std::string TableText(const std::vector<BenchRow>& rows);

// Where and by what the rows were taken.
struct BenchOrigin {
  std::string device;
  DeviceClocks clocks;
  std::string commit;  // of the program's sources; empty where unknown
  Ceilings ceilings;
};

std::string JsonText(const BenchOrigin& origin, const std::vector<BenchRow>& rows);

// "786.0 TFLOP/s"
std::string FlopRateText(double flops_per_second);

}  // namespace salamander

#endif  // TRAINER_BENCH_BENCH_ROW_H_
