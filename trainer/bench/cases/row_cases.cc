#include "kernels/layer_mse.h"
#include "kernels/memory.h"
#include "kernels/sigmoid_gate.h"
#include "kernels/swiglu.h"
#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

TensorView Rows(const CaseShape& shape, RandomTensors& random) {
  return random.Activation({shape.dims[0], shape.dims[1]});
}

using TensorToTensor = absl::Status (*)(const ExecutionContext& context, const TensorView& source,
                                        const TensorView& destination);

OpRun Moving(TensorToTensor op, const TensorView& source, const TensorView& destination) {
  return {.flops = 0.0,
          .bytes = static_cast<double>(source.bytes() + destination.bytes()),
          .results = {destination},
          .run = [=](const auto& context) { return op(context, source, destination); }};
}

}  // namespace

OpRun CopyCase(const CaseShape& shape, RandomTensors& random) {
  const TensorView source = Rows(shape, random), destination = Rows(shape, random);
  return Moving(Copy, source, destination);
}

// Statistics are fp32: on CUDA a narrowing to bf16.
OpRun ConvertCase(const CaseShape& shape, RandomTensors& random) {
  const TensorView source = random.Statistic({shape.dims[0], shape.dims[1]});
  return Moving(Convert, source, Rows(shape, random));
}

OpRun SwigluForwardCase(const CaseShape& shape, RandomTensors& random) {
  const SwigluForwardArgs args{
      .gate = Rows(shape, random), .up = Rows(shape, random), .output = Rows(shape, random)};
  return Calling(SwigluForward, args, {args.gate, args.up}, {args.output});
}

OpRun SwigluBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const SwigluBackwardArgs args{.gate = Rows(shape, random),
                                .up = Rows(shape, random),
                                .d_output = Rows(shape, random),
                                .d_gate = Rows(shape, random),
                                .d_up = Rows(shape, random),
                                .output = {}};
  return Calling(SwigluBackward, args, {args.gate, args.up, args.d_output},
                 {args.d_gate, args.d_up});
}

OpRun SigmoidGateForwardCase(const CaseShape& shape, RandomTensors& random) {
  const SigmoidGateForwardArgs args{
      .input = Rows(shape, random), .gate = Rows(shape, random), .output = Rows(shape, random)};
  return Calling(SigmoidGateForward, args, {args.input, args.gate}, {args.output});
}

OpRun SigmoidGateBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const SigmoidGateBackwardArgs args{.input = Rows(shape, random),
                                     .gate = Rows(shape, random),
                                     .d_output = Rows(shape, random),
                                     .d_input = Rows(shape, random),
                                     .d_gate = Rows(shape, random)};
  return Calling(SigmoidGateBackward, args, {args.input, args.gate, args.d_output},
                 {args.d_input, args.d_gate});
}

OpRun LayerMseCase(const CaseShape& shape, RandomTensors& random) {
  const LayerMseArgs args{.output = Rows(shape, random),
                          .target = Rows(shape, random),
                          .row_weights = {},
                          .gradient_scale = 1.0,
                          .d_output = Rows(shape, random),
                          .loss_sum = random.Zeros(DType::kFloat64, {1}),
                          .moments = {}};
  return Calling(LayerMse, args, {args.output, args.target}, {args.d_output, args.loss_sum});
}

}  // namespace salamander
