// Output head fused with its loss. Logits exist for one chunk of tokens at a time and are never
// kept whole, so length is not bounded by the vocabulary. The gradient is taken in the same pass.
//   logits_t = logit_scale * head h_t
//   cross-entropy   loss = sum_t w_t * (logsumexp(logits_t) - logits_t[target_t])
//   KL to a teacher loss = sum_t w_t * sum_v p_tv * (log p_tv - log q_tv)
// with p the teacher's and q the student's softmax, at temperature 1. Gradients are those of
// gradient_scale * loss; a row of weight 0 adds exactly nothing.
//
// A head may be split by tokens among ranks. Each then has its part's logits, and the ranks bring
// together a few numbers of each row: the largest logit, the sum of exponentials, the target's
// logit. Losses and predictions are the whole vocabulary's, with the same bits on every rank;
// d_hidden is the part's share of a sum over ranks, d_head the part's own.
#ifndef KERNELS_HEAD_LOSS_H_
#define KERNELS_HEAD_LOSS_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

// Which of equal parts of the vocabulary a rank's head is, and the way to the other ranks'.
struct VocabularySplit {
  int rank = 0;
  int ranks = 1;
  // Rank r's `mine` becomes rows [r * n, (r + 1) * n) of `all` on every rank, n = mine.dim(0).
  // Called by every rank alike, once a chunk of rows.
  std::function<absl::Status(const TensorView& mine, const TensorView& all)> gather;
};

struct HeadGradients {
  double scale = 1.0;
  TensorView d_hidden;  // [T, C], overwritten; empty: no gradient is wanted
  TensorView d_head;    // [V, C] in the StatisticsType, added to; empty: not wanted (a frozen head)
};

struct HeadCrossEntropyArgs {
  TensorView hidden;  // [T, C], after the final norm
  TensorView head;    // [V, C]
  double logit_scale = 1.0;
  TensorView targets;       // [T] int32; not read where the weight is 0
  TensorView loss_weights;  // [T] fp32
  HeadGradients gradients;
  TensorView token_losses;  // [T] fp32 receives the unweighted loss of each row (0 where weight is
                            // 0), or empty
  TensorView predictions;  // [T] int32 receives the argmax (lowest index of equals; -1 where weight
                           // is 0), or empty
  TensorView loss_sum;     // [1] fp64, the weighted sum over rows in a fixed order is added to it
  const VocabularySplit* split = nullptr;  // null: the head is whole
};

struct HeadDistillationArgs {
  TensorView hidden;  // [T, C] student
  TensorView head;    // [V, C] student
  double logit_scale = 1.0;
  TensorView teacher_hidden;  // [T, C']
  TensorView teacher_head;    // [V, C']
  double teacher_logit_scale = 1.0;
  TensorView loss_weights;                 // [T] fp32
  HeadGradients gradients;                 // of the student
  TensorView token_losses;                 // [T] fp32 or empty
  TensorView loss_sum;                     // [1] fp64, added to
  const VocabularySplit* split = nullptr;  // of both heads; null: they are whole
};

struct HeadLogitsArgs {
  TensorView hidden;  // [T, C]
  TensorView head;    // [V, C]
  double logit_scale = 1.0;
  TensorView logits;  // [T, V] in the StatisticsType
};

// Fails where the target of a row with a weight lies outside the vocabulary, naming the row; on
// CUDA at the next wait (kernels/device.h).
absl::Status HeadCrossEntropy(const ExecutionContext& context, const HeadCrossEntropyArgs& args);
absl::Status HeadDistillation(const ExecutionContext& context, const HeadDistillationArgs& args);

// Plain logits, for sampling and for parity reports of a few tokens.
absl::Status HeadLogits(const ExecutionContext& context, const HeadLogitsArgs& args);

}  // namespace salamander

#endif  // KERNELS_HEAD_LOSS_H_
