// The op set as cases: each op forward and backward, at the shapes that one layer of a model gives
// it, with the operations and the least bytes that its mathematics asks for. The bench times them;
// the GPU's tests compare what they write with the CPU's.
#ifndef TRAINER_BENCH_CASES_OP_CASES_H_
#define TRAINER_BENCH_CASES_OP_CASES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "model/config.h"
#include "trainer/ceilings/random_tensors.h"

namespace salamander {

// What the cases run over: documents end to end in the layers of a model.
struct CaseStream {
  ModelConfig config;
  int64_t tokens = 0;
  std::vector<Segment> segments;
  std::vector<double> slopes;  // of the Lightning heads

  static CaseStream Of(const ModelConfig& config, const std::vector<int64_t>& document_lengths);
};

// An op on tensors that are there. Lives no longer than the stream and the tensors.
struct OpRun {
  double flops = 0.0;  // 0: what counts is bytes
  double bytes = 0.0;  // each input read once, each output written once
  std::vector<TensorView> results;
  std::function<absl::Status(const ExecutionContext&)> run;
};

struct OpCase {
  std::string name;   // "rms_norm backward"
  std::string shape;  // "[32768, 4096]"
  std::function<OpRun(RandomTensors&)> prepare;
};

// Everything that a model of this config runs over the stream, which outlives the cases.
std::vector<OpCase> OpCases(const CaseStream& stream);

}  // namespace salamander

#endif  // TRAINER_BENCH_CASES_OP_CASES_H_
