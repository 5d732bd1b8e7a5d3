#include "kernels/head_norm_rope.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_tables.h"
#include "model/layers/rope.h"
#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

constexpr double kBranchScale = 0.25;

TensorView Heads(const CaseShape& shape, RandomTensors& random) {
  return random.Activation({shape.dims[0], shape.dims[1], shape.dims[2]});
}

// [T, D/2], as of angles all around.
TensorView RopeTable(const CaseShape& shape, RandomTensors& random) {
  return random.Statistic({shape.dims[0], shape.dims[2] / 2}, -1.0, 1.0);
}

}  // namespace

OpRun RmsNormForwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], width = shape.dims[1];
  const auto rows = [&] { return random.Activation({tokens, width}); };
  const RmsNormForwardArgs args{.residual = rows(),
                                .branch = rows(),
                                .branch_scale = kBranchScale,
                                .weight = random.Activation({width}),
                                .hidden = rows(),
                                .output = rows(),
                                .inverse_rms = random.Statistic({tokens})};
  return Calling(RmsNormForward, args, {args.residual, args.branch},
                 {args.hidden, args.output, args.inverse_rms});
}

OpRun RmsNormBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], width = shape.dims[1];
  const auto rows = [&] { return random.Activation({tokens, width}); };
  const RmsNormBackwardArgs args{.hidden = rows(),
                                 .weight = random.Activation({width}),
                                 .inverse_rms = random.Statistic({tokens}),
                                 .d_output = rows(),
                                 .d_hidden = rows(),
                                 .branch_scale = kBranchScale,
                                 .d_residual = rows(),
                                 .d_branch = rows(),
                                 .d_weight = random.Zeros(DType::kFloat32, {width})};
  return Calling(RmsNormBackward, args,
                 {args.hidden, args.inverse_rms, args.d_output, args.d_hidden},
                 {args.d_residual, args.d_branch, args.d_weight});
}

OpRun HeadNormRopeForwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], heads = shape.dims[1], dim = shape.dims[2];
  const HeadNormRopeForwardArgs args{.input = Heads(shape, random),
                                     .weight = random.Activation({dim}),
                                     .cosines = RopeTable(shape, random),
                                     .sines = RopeTable(shape, random),
                                     .output = Heads(shape, random),
                                     .inverse_rms = random.Statistic({tokens, heads})};
  return Calling(HeadNormRopeForward, args, {args.input, args.cosines, args.sines},
                 {args.output, args.inverse_rms});
}

OpRun HeadNormRopeBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], heads = shape.dims[1], dim = shape.dims[2];
  const HeadNormRopeBackwardArgs args{.input = Heads(shape, random),
                                      .weight = random.Activation({dim}),
                                      .cosines = RopeTable(shape, random),
                                      .sines = RopeTable(shape, random),
                                      .inverse_rms = random.Statistic({tokens, heads}),
                                      .d_output = Heads(shape, random),
                                      .d_input = Heads(shape, random),
                                      .d_weight = random.Zeros(DType::kFloat32, {dim})};
  return Calling(HeadNormRopeBackward, args,
                 {args.input, args.cosines, args.sines, args.inverse_rms, args.d_output},
                 {args.d_input, args.d_weight});
}

OpRun RopeTablesCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], dim = shape.dims[1];
  const TensorView cosines = random.Statistic({tokens, dim / 2});
  const TensorView sines = random.Statistic({tokens, dim / 2});
  const auto frequencies = RopeInverseFrequencies(shape.stream.config.rope, dim, 0);
  return {.flops = 0.0,
          .bytes = static_cast<double>(cosines.bytes() + sines.bytes()),
          .results = {cosines, sines},
          .run = [=, &stream = shape.stream](const auto& context) {
            return RopeTables(context, {.short_frequencies = frequencies,
                                        .long_frequencies = frequencies,
                                        .segments = stream.segments,
                                        .cosines = cosines,
                                        .sines = sines});
          }};
}

}  // namespace salamander
