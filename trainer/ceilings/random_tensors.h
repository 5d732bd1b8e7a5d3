// Tensors of random values, for work that is timed: how fast a GPU clocks depends on the bits that
// switch, and a kernel may be quick over zeros.
#ifndef TRAINER_CEILINGS_RANDOM_TENSORS_H_
#define TRAINER_CEILINGS_RANDOM_TENSORS_H_

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "absl/status/status.h"

#include "kernels/base/arena.h"
#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

// Every tensor has values of its own; the same calls give the same values on every device, for
// activations are rounded to bf16 whatever type holds them.
class RandomTensors {
 public:
  // Tensors come from `tensors`, what is staged on the way from the context's arena.
  RandomTensors(const ExecutionContext& context, Arena& tensors, DType activations)
      : context_(context), arena_(tensors), activations_(activations) {}

  // Normal(0, deviation) in the activations' type.
  TensorView Activation(std::initializer_list<int64_t> dims, double deviation = 1.0);
  // Uniform in [low, high), fp32.
  TensorView Statistic(std::initializer_list<int64_t> dims, double low = 0.5, double high = 1.5);
  TensorView Integers(std::initializer_list<int64_t> dims, int64_t bound);  // [0, bound)
  TensorView Of(const std::vector<int32_t>& values, std::initializer_list<int64_t> dims);
  TensorView Zeros(DType dtype, std::initializer_list<int64_t> dims);

  // A tensor that is there already, of the activations' type.
  void FillNormal(const TensorView& tensor, double deviation);

  DType activations() const { return activations_; }

  // The first failure to fill a tensor.
  const absl::Status& status() const { return status_; }

 private:
  template <typename Make>
  void Fill(const TensorView& tensor, DType staged_type, const Make& make);

  const ExecutionContext& context_;
  Arena& arena_;
  DType activations_;
  uint64_t tensors_made_ = 0;
  absl::Status status_;
};

}  // namespace salamander

#endif  // TRAINER_CEILINGS_RANDOM_TENSORS_H_
