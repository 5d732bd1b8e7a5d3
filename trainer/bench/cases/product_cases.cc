#include "kernels/linear.h"
#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

// Small as a model's are, so that no product leaves the range of what it is added to.
constexpr double kWeightDeviation = 0.02;

double ProductFlops(const CaseShape& shape) {
  return 2.0 * static_cast<double>(shape.dims[0] * shape.dims[1]) *
         static_cast<double>(shape.dims[2]);
}

}  // namespace

OpRun LinearForwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], in = shape.dims[1], out = shape.dims[2];
  const LinearForwardArgs args{.input = random.Activation({tokens, in}),
                               .weight = random.Activation({out, in}, kWeightDeviation),
                               .output = random.Activation({tokens, out})};
  return Calling(LinearForward, args, {args.input, args.weight}, {args.output},
                 ProductFlops(shape));
}

OpRun LinearBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], in = shape.dims[1], out = shape.dims[2];
  const LinearBackwardArgs args{.input = random.Activation({tokens, in}),
                                .weight = random.Activation({out, in}, kWeightDeviation),
                                .d_output = random.Activation({tokens, out}),
                                .d_input = random.Activation({tokens, in}),
                                .d_weight = random.Zeros(DType::kFloat32, {out, in})};
  return Calling(LinearBackward, args, {args.input, args.weight, args.d_output, args.d_weight},
                 {args.d_input, args.d_weight}, 2 * ProductFlops(shape));
}

}  // namespace salamander
