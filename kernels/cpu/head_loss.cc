// Output head and loss, a chunk of rows at a time: logits by BLAS, one pass for the largest, one
// for the exponentials and their sum, and the gradient written over them; then two products carry
// it to the hidden state and the head. What a row's gradient needs of all parts of a split
// vocabulary lies in a few numbers, gathered between the passes; a whole one is the only part.
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

int PartsOf(const VocabularySplit* split) {
  return split == nullptr ? 1 : split->ranks;
}

int64_t FirstToken(const VocabularySplit* split, int64_t part_size) {
  return split == nullptr ? 0 : split->rank * part_size;
}

// A row of one part of the vocabulary, in numbers that the parts share.
struct CrossEntropyPart {
  double largest = 0;      // logit
  double sum = 0;          // of exp(logit - largest)
  double target_gap = 0;   // target's logit - largest, where the part holds the target
  double prediction = -1;  // the lowest token of the largest logit
};

// The whole row's; target_gap and sum against the largest of all.
CrossEntropyPart Combine(const CrossEntropyPart* parts, int64_t stride, int count, int owner) {
  CrossEntropyPart whole = parts[0];
  for (int i = 1; i < count; ++i) {
    if (!(parts[i * stride].largest > whole.largest)) continue;
    whole.largest = parts[i * stride].largest;
    whole.prediction = parts[i * stride].prediction;
  }
  whole.sum = 0;
  for (int i = 0; i < count; ++i) {
    whole.sum += parts[i * stride].sum * std::exp(parts[i * stride].largest - whole.largest);
  }
  const CrossEntropyPart& owners = parts[owner * stride];
  whole.target_gap = owners.target_gap + (owners.largest - whole.largest);
  return whole;
}

struct DistillationPart {
  double student_largest = 0, student_sum = 0;
  double teacher_largest = 0, teacher_sum = 0;
  double gap = 0;  // sum of exp(z - max z) * ((z - max z) - (y - max y))
};

DistillationPart Combine(const DistillationPart* parts, int64_t stride, int count) {
  DistillationPart whole = {.student_largest = parts[0].student_largest,
                            .teacher_largest = parts[0].teacher_largest};
  for (int i = 1; i < count; ++i) {
    whole.student_largest = std::max(whole.student_largest, parts[i * stride].student_largest);
    whole.teacher_largest = std::max(whole.teacher_largest, parts[i * stride].teacher_largest);
  }
  for (int i = 0; i < count; ++i) {
    const DistillationPart& part = parts[i * stride];
    const double student_shift = part.student_largest - whole.student_largest;
    const double teacher_shift = part.teacher_largest - whole.teacher_largest;
    const double teacher_scale = std::exp(teacher_shift);
    whole.student_sum += part.student_sum * std::exp(student_shift);
    whole.teacher_sum += part.teacher_sum * teacher_scale;
    whole.gap += teacher_scale * (part.gap + part.teacher_sum * (teacher_shift - student_shift));
  }
  return whole;
}

// Room for a chunk's rows of every part of the vocabulary, and the own ones among them.
template <typename Part>
class RowParts {
 public:
  RowParts(Arena& arena, int64_t capacity, const VocabularySplit* split)
      : split_(split),
        own_(arena.Array<Part>(capacity)),
        all_(split == nullptr ? own_ : arena.Array<Part>(capacity * split->ranks)) {}

  bool is_split() const { return split_ != nullptr; }
  Part& own(int64_t i) { return own_[i]; }
  // Row i of the first part; a row's parts lie the chunk's rows apart.
  const Part* all(int64_t i) const { return all_ + i; }

  absl::Status Gather(int64_t rows) {
    constexpr auto kNumbers = static_cast<int64_t>(sizeof(Part) / sizeof(double));
    if (!is_split()) return absl::OkStatus();
    return split_->gather(TensorView(own_, DType::kFloat64, {rows, kNumbers}),
                          TensorView(all_, DType::kFloat64, {split_->ranks * rows, kNumbers}));
  }

 private:
  const VocabularySplit* split_;
  Part* own_;
  Part* all_;
};

absl::Status CheckTargets(const HeadCrossEntropyArgs& args) {
  const int64_t vocabulary = args.head.dim(0) * PartsOf(args.split);
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

// Scales a row of products to logits and turns those into exponentials.
template <typename Element>
CrossEntropyPart CrossEntropyPartOf(const HeadCrossEntropyArgs& args, int64_t token,
                                    Element* logits) {
  const int64_t vocabulary = args.head.dim(0);
  const int64_t first = FirstToken(args.split, vocabulary);
  const int64_t target = args.targets.data<int32_t>()[token] - first;
  const Element largest =
      ScaleAndFindLargest(static_cast<Element>(args.logit_scale), logits, vocabulary);
  CrossEntropyPart part{.largest = static_cast<double>(largest)};
  if (!args.predictions.empty()) {
    const Element* const found = std::find(logits, logits + vocabulary, largest);
    part.prediction = static_cast<double>(first + (found - logits));
  }
  if (target >= 0 && target < vocabulary) {
    part.target_gap = static_cast<double>(logits[target] - largest);
  }
  part.sum = Exponentiate(largest, logits, vocabulary);
  return part;
}

// Turns the exponentials into the gradient, where one is wanted, and returns the row's loss.
template <typename Element>
double CrossEntropyRow(const HeadCrossEntropyArgs& args, int64_t token, double weight,
                       const CrossEntropyPart& own, const CrossEntropyPart& whole,
                       Element* exponentials) {
  const int64_t vocabulary = args.head.dim(0);
  if (!args.predictions.empty()) {
    args.predictions.data<int32_t>()[token] = static_cast<int32_t>(std::llrint(whole.prediction));
  }
  if (IsWanted(args.gradients)) {
    const auto factor = GradientFactor<Element>(args.gradients, weight, args.logit_scale);
    const double rescale = std::exp(own.largest - whole.largest);
    Scale(static_cast<Element>(static_cast<double>(factor) / whole.sum * rescale), exponentials,
          vocabulary);
    const int64_t target = args.targets.data<int32_t>()[token] - FirstToken(args.split, vocabulary);
    if (target >= 0 && target < vocabulary) exponentials[target] -= factor;
  }
  return std::log(whole.sum) - whole.target_gap;
}

// KL = sum_v p_v ((z_v - max z) - (y_v - max y)) - log sum exp(z - max z) + log sum exp(y - max y)
// for the teacher's logits z and the student's y. Equal rows give exactly 0, and a gradient of 0.
// Scales two rows of products to logits and turns those into exponentials.
template <typename Element>
DistillationPart DistillationPartOf(const HeadDistillationArgs& args, Element* student,
                                    Element* teacher) {
  const int64_t vocabulary = args.head.dim(0);
  const Element student_largest =
      ScaleAndFindLargest(static_cast<Element>(args.logit_scale), student, vocabulary);
  const Element teacher_largest =
      ScaleAndFindLargest(static_cast<Element>(args.teacher_logit_scale), teacher, vocabulary);
  DistillationPart part{.student_largest = static_cast<double>(student_largest),
                        .teacher_largest = static_cast<double>(teacher_largest)};
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
    part.student_sum += static_cast<double>(student_sum);
    part.teacher_sum += static_cast<double>(teacher_sum);
    part.gap += static_cast<double>(gap_sum);
  }
  return part;
}

// Turns the student's exponentials into the gradient, where one is wanted, and returns the row's
// loss.
template <typename Element>
double DistillationRow(const HeadDistillationArgs& args, double weight, const DistillationPart& own,
                       const DistillationPart& whole, Element* student, Element* teacher) {
  const int64_t vocabulary = args.head.dim(0);
  if (IsWanted(args.gradients)) {
    // Both are rounded before the difference: fused into it, equal rows would leave a remainder.
    const double student_scale = std::exp(own.student_largest - whole.student_largest);
    const double teacher_scale = std::exp(own.teacher_largest - whole.teacher_largest);
    Scale(static_cast<Element>(student_scale / whole.student_sum), student, vocabulary);
    Scale(static_cast<Element>(teacher_scale / whole.teacher_sum), teacher, vocabulary);
    const auto factor = GradientFactor<Element>(args.gradients, weight, args.logit_scale);
    for (int64_t i = 0; i < vocabulary; ++i) student[i] = factor * (student[i] - teacher[i]);
  }
  return whole.gap / whole.teacher_sum - std::log(whole.teacher_sum) + std::log(whole.student_sum);
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
  RowParts<CrossEntropyPart> parts(*context.arena, chunk.capacity(), args.split);
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
    const auto finish_row = [&](int64_t i) {
      const int64_t token = chunk.row(i);
      const int owner =
          static_cast<int>(args.targets.data<int32_t>()[token] / vocabulary);  // of parts
      losses[i] = CrossEntropyRow(args, token, chunk.weight(i), parts.own(i),
                                  Combine(parts.all(i), chunk.count(), PartsOf(args.split), owner),
                                  rows.data<Element>() + i * vocabulary);
    };
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < chunk.count(); ++i) {
      parts.own(i) = CrossEntropyPartOf(args, chunk.row(i), rows.data<Element>() + i * vocabulary);
      if (!parts.is_split()) finish_row(i);
    }
    RETURN_IF_ERROR(parts.Gather(chunk.count()));
    if (parts.is_split()) {
#pragma omp parallel for schedule(static)
      for (int64_t i = 0; i < chunk.count(); ++i) finish_row(i);
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
  RowParts<DistillationPart> parts(*context.arena, chunk.capacity(), args.split);
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
    const auto finish_row = [&](int64_t i) {
      losses[i] = DistillationRow(args, chunk.weight(i), parts.own(i),
                                  Combine(parts.all(i), chunk.count(), PartsOf(args.split)),
                                  student_rows.data<Element>() + i * vocabulary,
                                  teacher_rows.data<Element>() + i * vocabulary);
    };
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < chunk.count(); ++i) {
      parts.own(i) = DistillationPartOf(args, student_rows.data<Element>() + i * vocabulary,
                                        teacher_rows.data<Element>() + i * vocabulary);
      if (!parts.is_split()) finish_row(i);
    }
    RETURN_IF_ERROR(parts.Gather(chunk.count()));
    if (parts.is_split()) {
#pragma omp parallel for schedule(static)
      for (int64_t i = 0; i < chunk.count(); ++i) finish_row(i);
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
