#include <vector>

#include "kernels/adamw.h"
#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

double Bytes(const std::vector<TensorView>& tensors) {
  double bytes = 0.0;
  for (const TensorView& tensor : tensors) bytes += static_cast<double>(tensor.bytes());
  return bytes;
}

}  // namespace

OpRun AdamWCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t count = shape.dims[0], rows = shape.dims[1], width = shape.dims[2];
  const auto fp32 = [&] { return random.Statistic({rows, width}, 0.01, 0.02); };
  const bool rounds = random.activations() == DType::kBFloat16;
  std::vector<AdamWTensor> tensors;
  OpRun run;
  for (int64_t index = 0; index < count; ++index) {
    // Made on every device, so that what follows has the same values.
    const TensorView rounded = random.Activation({rows, width});
    tensors.push_back({.weight = fp32(),
                       .gradient = fp32(),
                       .first_moment = fp32(),
                       .second_moment = fp32(),
                       .rounded = rounds ? rounded : TensorView(),
                       .learning_rate = 1e-6,
                       .weight_decay = 0.1});
    const AdamWTensor& made = tensors.back();
    run.bytes += Bytes({made.weight, made.gradient, made.first_moment, made.second_moment});
    run.bytes += Bytes({made.weight, made.first_moment, made.second_moment});
    if (rounds) run.bytes += Bytes({made.rounded});
    run.results.insert(run.results.end(), {made.weight, made.first_moment, made.second_moment});
  }
  run.run = [tensors, norm = random.Zeros(DType::kFloat64, {1})](const auto& context) {
    return AdamWUpdate(context, {.tensors = tensors, .step = 1, .gradient_squares = norm});
  };
  return run;
}

OpRun SumOfSquaresCase(const CaseShape& shape, RandomTensors& random) {
  std::vector<TensorView> tensors;
  for (int64_t index = 0; index < shape.dims[0]; ++index)
    tensors.push_back(random.Statistic({shape.dims[1], shape.dims[2]}));
  const TensorView sum = random.Zeros(DType::kFloat64, {1});
  return {.flops = 0.0, .bytes = Bytes(tensors), .results = {sum}, .run = [=](const auto& context) {
            return SumOfSquares(context, tensors, sum);
          }};
}

}  // namespace salamander
