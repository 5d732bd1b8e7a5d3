// The gradient is divided by columns: a task adds its columns of every token's row in token order,
// which needs neither atomics nor scratch, whatever tokens repeat.
#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

constexpr int64_t kColumnsPerTask = 64;  // whole cache lines, so that tasks share none

absl::Status CheckTokens(const TensorView& tokens, int64_t vocabulary) {
  const int32_t* const token = tokens.data<int32_t>();
  for (int64_t t = 0; t < tokens.dim(0); ++t) {
    if (token[t] >= 0 && token[t] < vocabulary) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tokens[", t, "]: id ", token[t], " is outside the embedding table's [0, ",
                     vocabulary, "); tokenize with the tokenizer that belongs to the model"));
  }
  return absl::OkStatus();
}

template <typename Real>
void Forward(const EmbeddingForwardArgs& args) {
  const int64_t width = args.table.dim(1), vocabulary = args.table.dim(0);
  const int64_t first_token = args.part.first_token;
  const auto* const tokens = args.tokens.data<int32_t>();
  const Real* const table = args.table.data<Real>();
  Real* const output = args.output.data<Real>();
  const auto scale = static_cast<Real>(args.scale);
  ParallelFor(args.tokens.dim(0), args.output.size(), [=](int64_t t) {
    const int64_t row = tokens[t] - first_token;
    Real* const to = output + t * width;
    if (row < 0 || row >= vocabulary) {
      std::fill_n(to, width, Real(0));
      return;
    }
    const Real* const from = table + row * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) to[c] = scale * from[c];
  });
}

template <typename Real>
void Backward(const EmbeddingBackwardArgs& args) {
  const int64_t count = args.tokens.dim(0);
  const int64_t width = args.d_table.dim(1), vocabulary = args.d_table.dim(0);
  const int64_t first_token = args.part.first_token;
  const auto* const tokens = args.tokens.data<int32_t>();
  const Real* const d_output = args.d_output.data<Real>();
  Real* const d_table = args.d_table.data<Real>();
  const auto scale = static_cast<Real>(args.scale);
  ParallelFor(CeilDivide(width, kColumnsPerTask), args.d_output.size(), [=](int64_t task) {
    const int64_t begin = task * kColumnsPerTask;
    const int64_t end = std::min(width, begin + kColumnsPerTask);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t row = tokens[t] - first_token;
      if (row < 0 || row >= vocabulary) continue;
      const Real* const from = d_output + t * width;
      Real* const to = d_table + row * width;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) to[c] += scale * from[c];
    }
  });
}

}  // namespace

absl::Status EmbeddingForward(const ExecutionContext&, const EmbeddingForwardArgs& args) {
  RETURN_IF_ERROR(CheckTokens(args.tokens, WholeVocabulary(args.part, args.table)));
  ForReal(args.output.dtype(), [&](auto real) { Forward<decltype(real)>(args); });
  return absl::OkStatus();
}

absl::Status EmbeddingBackward(const ExecutionContext&, const EmbeddingBackwardArgs& args) {
  RETURN_IF_ERROR(CheckTokens(args.tokens, WholeVocabulary(args.part, args.d_table)));
  ForReal(args.d_table.dtype(), [&](auto real) { Backward<decltype(real)>(args); });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
