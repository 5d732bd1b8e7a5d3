#include "kernels/head_loss.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

void CheckHead(const TensorView& hidden, const TensorView& head, const TensorView& loss_weights) {
  SALAMANDER_CHECK(hidden.rank() == 2 && head.rank() == 2 && hidden.dim(1) == head.dim(1) &&
                   head.dim(0) >= 1)
      << "hidden " << hidden.ShapeString() << ", head " << head.ShapeString();
  SALAMANDER_CHECK(loss_weights.size() == hidden.dim(0))
      << "loss weights " << loss_weights.ShapeString() << ", hidden " << hidden.ShapeString();
}

void CheckGradients(const HeadGradients& gradients, const TensorView& hidden,
                    const TensorView& head) {
  if (!gradients.d_hidden.empty()) {
    CHECK_SAME_SHAPE(gradients.d_hidden, hidden);
  }
  if (!gradients.d_head.empty()) {
    CHECK_GRADIENT_OF(head, gradients.d_head);
  }
}

void CheckSplit(const VocabularySplit* split) {
  SALAMANDER_CHECK(split == nullptr ||
                   (split->rank >= 0 && split->rank < split->ranks && split->gather))
      << "part " << split->rank << " of a vocabulary in " << split->ranks;
}

void CheckPerToken(const TensorView& view, const TensorView& hidden) {
  SALAMANDER_CHECK(view.empty() || view.size() == hidden.dim(0))
      << view.ShapeString() << " for hidden " << hidden.ShapeString();
}

void CheckLossSum(const TensorView& loss_sum) {
  SALAMANDER_CHECK(loss_sum.empty() ||
                   (loss_sum.size() == 1 && loss_sum.dtype() == DType::kFloat64))
      << "loss_sum " << loss_sum.ShapeString();
}

}  // namespace

absl::Status HeadCrossEntropy(const ExecutionContext& context, const HeadCrossEntropyArgs& args) {
  CheckHead(args.hidden, args.head, args.loss_weights);
  CheckGradients(args.gradients, args.hidden, args.head);
  SALAMANDER_CHECK(args.targets.size() == args.hidden.dim(0))
      << "targets " << args.targets.ShapeString() << ", hidden " << args.hidden.ShapeString();
  CheckPerToken(args.token_losses, args.hidden);
  CheckLossSum(args.loss_sum);
  CheckPerToken(args.predictions, args.hidden);
  CheckSplit(args.split);
  DISPATCH_BACKEND(HeadCrossEntropy, context, args);
}

absl::Status HeadDistillation(const ExecutionContext& context, const HeadDistillationArgs& args) {
  CheckHead(args.hidden, args.head, args.loss_weights);
  CheckHead(args.teacher_hidden, args.teacher_head, args.loss_weights);
  SALAMANDER_CHECK(args.head.dim(0) == args.teacher_head.dim(0))
      << "head " << args.head.ShapeString() << ", teacher's " << args.teacher_head.ShapeString();
  CheckGradients(args.gradients, args.hidden, args.head);
  CheckPerToken(args.token_losses, args.hidden);
  CheckLossSum(args.loss_sum);
  CheckSplit(args.split);
  DISPATCH_BACKEND(HeadDistillation, context, args);
}

absl::Status HeadLogits(const ExecutionContext& context, const HeadLogitsArgs& args) {
  SALAMANDER_CHECK(args.logits.dtype() == StatisticsType(args.hidden.dtype()) &&
                   args.logits.dim(0) == args.hidden.dim(0) &&
                   args.logits.dim(1) == args.head.dim(0) && args.hidden.dim(1) == args.head.dim(1))
      << "hidden " << args.hidden.ShapeString() << ", head " << args.head.ShapeString()
      << ", logits " << args.logits.ShapeString();
  DISPATCH_BACKEND(HeadLogits, context, args);
}

}  // namespace salamander
