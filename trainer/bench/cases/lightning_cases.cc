#include "kernels/lightning_attention.h"
#include "model/flops.h"
#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

TensorView Heads(const CaseShape& shape, RandomTensors& random) {
  return random.Activation({shape.dims[0], shape.dims[1], shape.dims[2]});
}

double Flops(const CaseShape& shape) {
  return LightningMixerFlops(shape.stream.config, shape.stream.tokens).lightning;
}

}  // namespace

OpRun LightningForwardCase(const CaseShape& shape, RandomTensors& random) {
  const LightningForwardArgs args{.q = Heads(shape, random),
                                  .k = Heads(shape, random),
                                  .v = Heads(shape, random),
                                  .slopes = shape.stream.slopes,
                                  .segments = shape.stream.segments,
                                  .scale = LightningScaleValue(shape.stream.config.lightning),
                                  .states = {},
                                  .out = Heads(shape, random)};
  return Calling(LightningForward, args, {args.q, args.k, args.v}, {args.out}, Flops(shape));
}

OpRun LightningBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const LightningBackwardArgs args{.q = Heads(shape, random),
                                   .k = Heads(shape, random),
                                   .v = Heads(shape, random),
                                   .slopes = shape.stream.slopes,
                                   .segments = shape.stream.segments,
                                   .scale = LightningScaleValue(shape.stream.config.lightning),
                                   .states = {},
                                   .d_states = {},
                                   .d_out = Heads(shape, random),
                                   .dq = Heads(shape, random),
                                   .dk = Heads(shape, random),
                                   .dv = Heads(shape, random)};
  return Calling(LightningBackward, args, {args.q, args.k, args.v, args.d_out},
                 {args.dq, args.dk, args.dv}, 2 * Flops(shape));
}

}  // namespace salamander
