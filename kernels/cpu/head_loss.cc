// Output head and loss, a chunk of rows at a time: logits by BLAS, one pass for the largest, one
// for the exponentials and their sum, and the gradient written over them; then two products carry
// it to the hidden state and the head.
// The same bits for every number of threads: rows are independent, losses are summed in row order,
// and the products are matrix_product.h's, whose tiles do not depend on threads.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/head_chunk.h"
#include "kernels/cpu/small_matrix.h"
#include "kernels/cpu/vector_math.h"

namespace salamander::cpu {
namespace {

// Partial sums in the element type stay this short, so that a vocabulary of any size is summed to
// the accuracy of its elements.
constexpr int64_t kSumBlock = 2048;

// row *= scale; returns the largest element.
template <typename Element>
Element ScaleAndFindLargest(Element scale, Element* row, int64_t count) {
  using S = Simd<Element>;
  typename S::Vector largest_of_lane = typename S::Vector{} + scale * row[0];
  int64_t i = 0;
  for (; i + S::kLanes <= count; i += S::kLanes) {
    const typename S::Vector scaled = scale * S::Load(row + i);
    S::Store(row + i, scaled);
    largest_of_lane = scaled > largest_of_lane ? scaled : largest_of_lane;
  }
  Element largest = largest_of_lane[0];
  for (int lane = 1; lane < S::kLanes; ++lane) {
    largest = std::max(largest, static_cast<Element>(largest_of_lane[lane]));
  }
  for (; i < count; ++i) {
    row[i] *= scale;
    largest = std::max(largest, row[i]);
  }
  return largest;
}

// row = exp(row - largest); returns the sum.
template <typename Element>
double Exponentiate(Element largest, Element* row, int64_t count) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kSumBlock) {
    const int64_t end = std::min(begin + kSumBlock, count);
    Element sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      row[i] = Exp(row[i] - largest);
      sum += row[i];
    }
    total += static_cast<double>(sum);
  }
  return total;
}

template <typename Element>
void Scale(Element factor, Element* row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] *= factor;
}

// The gradient of gradient_scale * weight * loss with respect to the unscaled logits, per unit of
// (student's softmax - target distribution).
template <typename Element>
Element GradientFactor(const HeadGradients& gradients, double weight, double logit_scale) {
  return static_cast<Element>(gradients.scale * weight * logit_scale);
}

bool IsWanted(const HeadGradients& gradients) {
  return !gradients.d_hidden.empty() || !gradients.d_head.empty();
}

absl::Status CheckTargets(const HeadCrossEntropyArgs& args) {
  const int64_t vocabulary = args.head.dim(0);
  const auto* const targets = args.targets.data<int32_t>();
  const auto* const weights = args.loss_weights.data<float>();
  for (int64_t t = 0; t < args.targets.size(); ++t) {
    if (weights[t] == 0 || (targets[t] >= 0 && targets[t] < vocabulary)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("targets[", t, "]: id ", targets[t], " is outside the head's [0, ", vocabulary,
                     "); tokenize with the tokenizer that belongs to the model"));
  }
  return absl::OkStatus();
}

// Turns one row of products into its gradient (where `is_gradient_wanted`) and returns its loss.
template <typename Element>
double CrossEntropyRow(const HeadCrossEntropyArgs& args, int64_t token, double weight,
                       Element* logits) {
  const int64_t vocabulary = args.head.dim(0);
  const int32_t target = args.targets.data<int32_t>()[token];
  const Element largest =
      ScaleAndFindLargest(static_cast<Element>(args.logit_scale), logits, vocabulary);
  if (!args.predictions.empty()) {
    const Element* const found = std::find(logits, logits + vocabulary, largest);
    args.predictions.data<int32_t>()[token] = static_cast<int32_t>(found - logits);
  }
  const auto target_logit = static_cast<double>(logits[target] - largest);
  const double sum = Exponentiate(largest, logits, vocabulary);
  if (IsWanted(args.gradients)) {
    const auto factor = GradientFactor<Element>(args.gradients, weight, args.logit_scale);
    Scale(static_cast<Element>(static_cast<double>(factor) / sum), logits, vocabulary);
    logits[target] -= factor;
  }
  return std::log(sum) - target_logit;
}

// KL = sum_v p_v ((z_v - max z) - (y_v - max y)) - log sum exp(z - max z) + log sum exp(y - max y)
// for the teacher's logits z and the student's y. Equal rows give exactly 0, and a gradient of 0.
template <typename Element>
double DistillationRow(const HeadDistillationArgs& args, double weight, Element* student,
                       Element* teacher) {
  const int64_t vocabulary = args.head.dim(0);
  const Element student_largest =
      ScaleAndFindLargest(static_cast<Element>(args.logit_scale), student, vocabulary);
  const Element teacher_largest =
      ScaleAndFindLargest(static_cast<Element>(args.teacher_logit_scale), teacher, vocabulary);
  double student_total = 0, teacher_total = 0, gap_total = 0;
  for (int64_t begin = 0; begin < vocabulary; begin += kSumBlock) {
    const int64_t end = std::min(begin + kSumBlock, vocabulary);
    Element student_sum = 0, teacher_sum = 0, gap_sum = 0;
#pragma omp simd reduction(+ : student_sum, teacher_sum, gap_sum)
    for (int64_t i = begin; i < end; ++i) {
      const Element student_logit = student[i] - student_largest;
      const Element teacher_logit = teacher[i] - teacher_largest;
      student[i] = Exp(student_logit);
      teacher[i] = Exp(teacher_logit);
      student_sum += student[i];
      teacher_sum += teacher[i];
      gap_sum += teacher[i] * (teacher_logit - student_logit);
    }
    student_total += static_cast<double>(student_sum);
    teacher_total += static_cast<double>(teacher_sum);
    gap_total += static_cast<double>(gap_sum);
  }
  if (IsWanted(args.gradients)) {
    // Both are rounded before the difference: fused into it, equal rows would leave a remainder.
    Scale(static_cast<Element>(1.0 / student_total), student, vocabulary);
    Scale(static_cast<Element>(1.0 / teacher_total), teacher, vocabulary);
    const auto factor = GradientFactor<Element>(args.gradients, weight, args.logit_scale);
    for (int64_t i = 0; i < vocabulary; ++i) student[i] = factor * (student[i] - teacher[i]);
  }
  return gap_total / teacher_total - std::log(teacher_total) + std::log(student_total);
}

// Adds the chunk's losses in row order and stores them.
void CollectLosses(const HeadChunks& chunk, const double* losses, const TensorView& token_losses,
                   double& loss_sum) {
  for (int64_t i = 0; i < chunk.count(); ++i) {
    loss_sum += chunk.weight(i) * losses[i];
    if (!token_losses.empty()) {
      token_losses.data<float>()[chunk.row(i)] = static_cast<float>(losses[i]);
    }
  }
}

// d_hidden = d_logits head and d_head += d_logits^T hidden, for the chunk's rows.
absl::Status PropagateGradient(const ExecutionContext& context, const HeadChunks& chunk,
                               const TensorView& hidden, const TensorView& head,
                               const TensorView& d_logits, const HeadGradients& gradients) {
  if (!IsWanted(gradients)) return absl::OkStatus();
  LinearBackwardArgs args;
  args.input = hidden;
  args.weight = head;
  args.d_output = d_logits;
  args.d_weight = gradients.d_head;
  if (!gradients.d_hidden.empty()) args.d_input = chunk.Output(gradients.d_hidden);
  RETURN_IF_ERROR(cpu::LinearBackward(context, args));
  if (!gradients.d_hidden.empty()) chunk.Scatter(args.d_input, gradients.d_hidden);
  return absl::OkStatus();
}

// What rows of weight 0 receive.
void ClearOutputs(const HeadGradients& gradients, const TensorView& token_losses) {
  for (const TensorView& view : {gradients.d_hidden, token_losses}) {
    if (!view.empty()) std::memset(view.raw(), 0, static_cast<size_t>(view.bytes()));
  }
}

template <typename Element>
absl::Status CrossEntropy(const ExecutionContext& context, const HeadCrossEntropyArgs& args) {
  const int64_t vocabulary = args.head.dim(0);
  const ArenaScope scope(*context.arena);
  HeadChunks chunk(*context.arena, args.loss_weights, HeadChunkRows(vocabulary, args.head.dtype()));
  const TensorView logits =
      context.arena->Tensor(args.head.dtype(), {chunk.capacity(), vocabulary});
  auto* const losses = context.arena->Array<double>(chunk.capacity());
  double loss_sum = 0;
  ClearOutputs(args.gradients, args.token_losses);
  if (!args.predictions.empty()) {
    std::fill_n(args.predictions.data<int32_t>(), args.predictions.size(), -1);
  }
  while (chunk.Next()) {
    const ArenaScope chunk_scope(*context.arena);
    const TensorView hidden = chunk.Gather(args.hidden);
    const TensorView rows = logits.Rows(0, chunk.count());
    RETURN_IF_ERROR(
        cpu::LinearForward(context, {.input = hidden, .weight = args.head, .output = rows}));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < chunk.count(); ++i) {
      losses[i] = CrossEntropyRow(args, chunk.row(i), chunk.weight(i),
                                  rows.data<Element>() + i * vocabulary);
    }
    CollectLosses(chunk, losses, args.token_losses, loss_sum);
    RETURN_IF_ERROR(PropagateGradient(context, chunk, hidden, args.head, rows, args.gradients));
  }
  if (!args.loss_sum.empty()) *args.loss_sum.data<double>() += loss_sum;
  return absl::OkStatus();
}

template <typename Element>
absl::Status Distillation(const ExecutionContext& context, const HeadDistillationArgs& args) {
  const int64_t vocabulary = args.head.dim(0);
  const ArenaScope scope(*context.arena);
  HeadChunks chunk(*context.arena, args.loss_weights, HeadChunkRows(vocabulary, args.head.dtype()));
  const TensorView student =
      context.arena->Tensor(args.head.dtype(), {chunk.capacity(), vocabulary});
  const TensorView teacher =
      context.arena->Tensor(args.head.dtype(), {chunk.capacity(), vocabulary});
  auto* const losses = context.arena->Array<double>(chunk.capacity());
  double loss_sum = 0;
  ClearOutputs(args.gradients, args.token_losses);
  while (chunk.Next()) {
    const ArenaScope chunk_scope(*context.arena);
    const TensorView hidden = chunk.Gather(args.hidden);
    const TensorView student_rows = student.Rows(0, chunk.count());
    const TensorView teacher_rows = teacher.Rows(0, chunk.count());
    RETURN_IF_ERROR(cpu::LinearForward(
        context, {.input = hidden, .weight = args.head, .output = student_rows}));
    RETURN_IF_ERROR(cpu::LinearForward(context, {.input = chunk.Gather(args.teacher_hidden),
                                                 .weight = args.teacher_head,
                                                 .output = teacher_rows}));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < chunk.count(); ++i) {
      losses[i] =
          DistillationRow(args, chunk.weight(i), student_rows.data<Element>() + i * vocabulary,
                          teacher_rows.data<Element>() + i * vocabulary);
    }
    CollectLosses(chunk, losses, args.token_losses, loss_sum);
    RETURN_IF_ERROR(
        PropagateGradient(context, chunk, hidden, args.head, student_rows, args.gradients));
  }
  if (!args.loss_sum.empty()) *args.loss_sum.data<double>() += loss_sum;
  return absl::OkStatus();
}

}  // namespace

absl::Status HeadCrossEntropy(const ExecutionContext& context, const HeadCrossEntropyArgs& args) {
  RETURN_IF_ERROR(CheckTargets(args));
  return args.head.dtype() == DType::kFloat64 ? CrossEntropy<double>(context, args)
                                              : CrossEntropy<float>(context, args);
}

absl::Status HeadDistillation(const ExecutionContext& context, const HeadDistillationArgs& args) {
  return args.head.dtype() == DType::kFloat64 ? Distillation<double>(context, args)
                                              : Distillation<float>(context, args);
}

absl::Status HeadLogits(const ExecutionContext& context, const HeadLogitsArgs& args) {
  RETURN_IF_ERROR(cpu::LinearForward(
      context, {.input = args.hidden, .weight = args.head, .output = args.logits}));
  if (args.logits.dtype() == DType::kFloat64) {
    Scale(args.logit_scale, args.logits.data<double>(), args.logits.size());
  } else {
    Scale(static_cast<float>(args.logit_scale), args.logits.data<float>(), args.logits.size());
  }
  return absl::OkStatus();
}

}  // namespace salamander::cpu
