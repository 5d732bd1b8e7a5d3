#include <cmath>

#include "kernels/embedding.h"
#include "kernels/head_loss.h"
#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

constexpr double kEmbeddingScale = 12.0;  // MiniCPM's
// Of hidden states and head: logits of order one at the widths of real models.
constexpr double kHeadDeviation = 0.1;

struct Head {
  TensorView hidden;   // [T, C]
  TensorView weights;  // [V, C]
};

Head RandomHead(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], vocabulary = shape.dims[1], width = shape.dims[2];
  return {.hidden = random.Activation({tokens, width}, kHeadDeviation),
          .weights = random.Activation({vocabulary, width}, kHeadDeviation)};
}

HeadGradients GradientsOf(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], vocabulary = shape.dims[1], width = shape.dims[2];
  return {.scale = 1.0,
          .d_hidden = random.Activation({tokens, width}),
          .d_head = random.Zeros(DType::kFloat32, {vocabulary, width})};
}

double LogitFlops(const CaseShape& shape) {
  return 2.0 * static_cast<double>(shape.dims[0] * shape.dims[2]) *
         static_cast<double>(shape.dims[1]);
}

}  // namespace

OpRun EmbeddingForwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], vocabulary = shape.dims[1], width = shape.dims[2];
  const EmbeddingForwardArgs args{.tokens = random.Integers({tokens}, vocabulary),
                                  .table = random.Activation({vocabulary, width}),
                                  .output = random.Activation({tokens, width}),
                                  .scale = kEmbeddingScale};
  // A token reads as much of the table as it writes.
  return Calling(EmbeddingForward, args, {args.tokens, args.output}, {args.output});
}

OpRun EmbeddingBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], vocabulary = shape.dims[1], width = shape.dims[2];
  const EmbeddingBackwardArgs args{.tokens = random.Integers({tokens}, vocabulary),
                                   .d_output = random.Activation({tokens, width}),
                                   .d_table = random.Zeros(DType::kFloat32, {vocabulary, width}),
                                   .scale = kEmbeddingScale};
  OpRun run = Calling(EmbeddingBackward, args, {args.tokens, args.d_output}, {args.d_table});
  // Of the table each distinct token reads and writes its row, not every row.
  const double distinct_share =
      -std::expm1(-static_cast<double>(tokens) / static_cast<double>(vocabulary));
  run.bytes += (2 * distinct_share - 1) * static_cast<double>(args.d_table.bytes());
  return run;
}

OpRun HeadCrossEntropyCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], vocabulary = shape.dims[1];
  const Head head = RandomHead(shape, random);
  const HeadCrossEntropyArgs args{.hidden = head.hidden,
                                  .head = head.weights,
                                  .targets = random.Integers({tokens}, vocabulary),
                                  .loss_weights = random.Statistic({tokens}, 1.0, 1.0),
                                  .gradients = GradientsOf(shape, random),
                                  .token_losses = {},
                                  .predictions = {},
                                  .loss_sum = random.Zeros(DType::kFloat64, {1})};
  return Calling(HeadCrossEntropy, args, {args.hidden, args.head, args.gradients.d_head},
                 {args.gradients.d_hidden, args.gradients.d_head, args.loss_sum},
                 3 * LogitFlops(shape));
}

OpRun HeadDistillationCase(const CaseShape& shape, RandomTensors& random) {
  const Head student = RandomHead(shape, random), teacher = RandomHead(shape, random);
  const HeadDistillationArgs args{.hidden = student.hidden,
                                  .head = student.weights,
                                  .teacher_hidden = teacher.hidden,
                                  .teacher_head = teacher.weights,
                                  .loss_weights = random.Statistic({shape.dims[0]}, 1.0, 1.0),
                                  .gradients = GradientsOf(shape, random),
                                  .token_losses = {},
                                  .loss_sum = random.Zeros(DType::kFloat64, {1})};
  return Calling(
      HeadDistillation, args,
      {args.hidden, args.head, args.teacher_hidden, args.teacher_head, args.gradients.d_head},
      {args.gradients.d_hidden, args.gradients.d_head, args.loss_sum}, 4 * LogitFlops(shape));
}

OpRun HeadLogitsCase(const CaseShape& shape, RandomTensors& random) {
  const Head head = RandomHead(shape, random);
  const HeadLogitsArgs args{.hidden = head.hidden,
                            .head = head.weights,
                            .logits = random.Statistic({shape.dims[0], shape.dims[1]})};
  return Calling(HeadLogits, args, {args.hidden, args.head}, {args.logits}, LogitFlops(shape));
}

}  // namespace salamander
