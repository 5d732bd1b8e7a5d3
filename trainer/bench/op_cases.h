// The op set as benchmark cases: each op forward and backward, at the shapes that one layer of a
// model gives it, with the operations and the least bytes that its mathematics asks for.
#ifndef TRAINER_BENCH_OP_CASES_H_
#define TRAINER_BENCH_OP_CASES_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "model/config.h"

namespace salamander {

// Tensors of one case, on the context's device, filled with fresh random values.
class CaseTensors {
 public:
  CaseTensors(const ExecutionContext& context, Arena& tensors, DType activations)
      : context_(context), arena_(tensors), activations_(activations) {}

  TensorView Activation(std::initializer_list<int64_t> dims, double deviation = 1.0);
  TensorView Statistic(std::initializer_list<int64_t> dims, double low = 0.5, double high = 1.5);
  TensorView Zeros(DType dtype, std::initializer_list<int64_t> dims);
  TensorView Integers(std::initializer_list<int64_t> dims, int64_t bound);  // [0, bound)
  TensorView Of(const std::vector<int32_t>& values, std::initializer_list<int64_t> dims);
  DType activations() const { return activations_; }

  // The first failure to fill a tensor.
  const absl::Status& status() const { return status_; }

 private:
  template <typename Make>
  TensorView Filled(DType dtype, std::initializer_list<int64_t> dims, const Make& make);

  const ExecutionContext& context_;
  Arena& arena_;
  DType activations_;
  uint64_t seed_ = 0;
  absl::Status status_;
};

struct OpRun {
  double flops = 0.0;  // 0: what counts is bytes
  double bytes = 0.0;  // each input read once, each output written once
  std::function<absl::Status(const ExecutionContext&)> run;
};

struct OpCase {
  std::string name;   // "rms_norm backward"
  std::string shape;  // "[32768, 4096]"
  std::function<OpRun(CaseTensors&)> prepare;
};

// Everything a model of this config runs over a stream of one document of `tokens` tokens.
std::vector<OpCase> OpCases(const ModelConfig& config, int64_t tokens);

}  // namespace salamander

#endif  // TRAINER_BENCH_OP_CASES_H_
