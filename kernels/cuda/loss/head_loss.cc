// Output head and loss, a chunk of rows at a time: fp32 logits by one product, their losses and
// gradient in bf16 by a kernel, two products that carry it to the hidden state and the head.
// The host does not know the weights, so that rows of weight 0 take part in the products: as zeros,
// whatever they hold.
#include "kernels/head_loss.h"

#include <algorithm>
#include <cstdint>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/linear/products.h"
#include "kernels/cuda/loss/head_loss_rows.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

// What a chunk's logits and their gradient may take. The head's gradient is read and written once
// per chunk, which 2048 rows of a vocabulary of 73448 hide behind the product.
constexpr int64_t kChunkBytes = int64_t{900} << 20;
constexpr int64_t kFewestRows = 64, kMostRows = 4096;

// A power of two: whole tiles and, in the narrow products, whole waves of them.
int64_t ChunkRows(int64_t rows, int64_t vocabulary, int64_t bytes_per_logit) {
  int64_t chunk = kMostRows;
  while (chunk > kFewestRows && chunk * vocabulary * bytes_per_logit > kChunkBytes) chunk /= 2;
  return std::min(chunk, rows);
}

bool IsWanted(const HeadGradients& gradients) {
  return !gradients.d_hidden.empty() || !gradients.d_head.empty();
}

absl::Status RunLogits(const ExecutionContext& context, const TensorView& hidden,
                       const TensorView& head, double scale, const TensorView& logits) {
  return context.cuda->products().Run(
      context, {.a = hidden, .b = head, .transpose_b = true, .result = logits, .scale = scale});
}

// d_hidden = d_logits head and d_head += d_logits^T hidden, for a chunk from row `first` on.
absl::Status PropagateGradient(const ExecutionContext& context, const TensorView& d_logits,
                               const TensorView& hidden, const TensorView& head, int64_t first,
                               const HeadGradients& gradients) {
  Products& products = context.cuda->products();
  if (!gradients.d_hidden.empty()) {
    RETURN_IF_ERROR(products.Run(
        context,
        {.a = d_logits, .b = head, .result = gradients.d_hidden.Rows(first, d_logits.dim(0))}));
  }
  if (gradients.d_head.empty()) return absl::OkStatus();
  return products.Run(context, {.a = d_logits,
                                .b = hidden,
                                .transpose_a = true,
                                .result = gradients.d_head,
                                .accumulate = true});
}

// Goes over the chunks of either loss. `run_loss(chunk's logits, rows)` takes it from the logits to
// the losses and the logits' gradient.
template <typename Args, typename RunLoss>
absl::Status ForEachChunk(const ExecutionContext& context, const Args& args,
                          const TensorView& predictions, int64_t bytes_per_logit,
                          const RunLoss& run_loss) {
  const int64_t tokens = args.hidden.dim(0), width = args.hidden.dim(1);
  const int64_t vocabulary = args.head.dim(0);
  if (tokens == 0) return absl::OkStatus();
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const int64_t most_rows = ChunkRows(tokens, vocabulary, bytes_per_logit);
  LossRows rows{.weights = args.loss_weights,
                .gradient_scale = args.gradients.scale * args.logit_scale,
                .d_logits = {},
                .token_losses = args.token_losses,
                .predictions = predictions,
                .split = args.split};
  if (!args.loss_sum.empty()) rows.losses = arena.Array<double>(tokens);
  for (int64_t first = 0; first < tokens; first += most_rows) {
    const ArenaScope chunk_scope(arena);
    const int64_t count = std::min(most_rows, tokens - first);
    rows.first_token = first;
    if (IsWanted(args.gradients)) {
      rows.d_logits = arena.Tensor(DType::kBFloat16, {count, vocabulary});
    }
    const TensorView hidden = arena.Tensor(DType::kBFloat16, {count, width});
    const TensorView logits = arena.Tensor(DType::kFloat32, {count, vocabulary});
    RETURN_IF_ERROR(MaskRows(context, args.hidden.Rows(first, count),
                             args.loss_weights.template data<float>() + first, hidden));
    RETURN_IF_ERROR(RunLogits(context, hidden, args.head, args.logit_scale, logits));
    RETURN_IF_ERROR(run_loss(logits, rows));
    if (!IsWanted(args.gradients)) continue;
    RETURN_IF_ERROR(
        PropagateGradient(context, rows.d_logits, hidden, args.head, first, args.gradients));
  }
  if (args.loss_sum.empty()) return absl::OkStatus();
  return AddLosses(context, rows.losses, args.loss_weights, args.loss_sum);
}

}  // namespace

absl::Status HeadCrossEntropy(const ExecutionContext& context, const HeadCrossEntropyArgs& args) {
  constexpr int64_t kBytesPerLogit = 4 + 2;  // the logit and its gradient
  return ForEachChunk(context, args, args.predictions, kBytesPerLogit,
                      [&](const TensorView& logits, const LossRows& rows) {
                        return CrossEntropyRows(context, logits, args.targets, rows);
                      });
}

absl::Status HeadDistillation(const ExecutionContext& context, const HeadDistillationArgs& args) {
  constexpr int64_t kBytesPerLogit = 4 + 4 + 2;  // both logits and the student's gradient
  return ForEachChunk(
      context, args, {}, kBytesPerLogit,
      [&](const TensorView& student, const LossRows& rows) -> absl::Status {
        const ArenaScope scope(*context.arena);
        const int64_t count = student.dim(0);
        const TensorView teacher = context.arena->Tensor(DType::kFloat32, {count, student.dim(1)});
        RETURN_IF_ERROR(RunLogits(context, args.teacher_hidden.Rows(rows.first_token, count),
                                  args.teacher_head, args.teacher_logit_scale, teacher));
        return DistillationRows(context, student, teacher, rows);
      });
}

absl::Status HeadLogits(const ExecutionContext& context, const HeadLogitsArgs& args) {
  if (args.logits.size() == 0) return absl::OkStatus();
  return RunLogits(context, args.hidden, args.head, args.logit_scale, args.logits);
}

}  // namespace salamander::cuda
