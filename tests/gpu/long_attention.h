// Attention over a document of 512K tokens, and two short ones behind it: 512K + 64 tokens. The
// document is a stretch of 4096 tokens over and over, and only a stretch's last query has a
// gradient, so that the twin computes one stretch for one query.
#ifndef TESTS_GPU_LONG_ATTENTION_H_
#define TESTS_GPU_LONG_ATTENTION_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/gpu/attention_on_gpu.h"
#include "tests/reference/attention.h"

namespace salamander {

constexpr int64_t kStretch = 4096, kStretches = (int64_t{512} << 10) / kStretch;

// The stretch and the short documents. The gradient is so large that what a key's last copy
// receives of it shows.
inline AttentionProblem LongAttention(int64_t head_dim) {
  AttentionProblem problem = RoundedAttention(
      {.documents = {kStretch, 1, 63}, .heads = 2, .key_heads = 1, .head_dim = head_dim}, 0.0);
  const int64_t row = problem.d_out.View().row_size();
  for (int64_t i = 0; i < kStretch * row; ++i) {
    const bool is_last = i >= (kStretch - 1) * row;
    problem.d_out.Set(i, is_last ? 4096.0 * problem.d_out.At(i) : 0.0);
  }
  return problem;
}

inline StreamPlace LongAttentionPlace() {
  return {.copies = kStretches, .scratch_bytes = int64_t{4} << 30};
}

// Of the stretch, the last query alone.
inline void KeepLastQuery(AttentionProblem& problem) {
  problem.segments[0] = {
      .query_begin = kStretch - 1, .query_count = 1, .first_position = kStretch - 1};
}

inline void ScaleKeyGradients(AttentionProblem& problem, int64_t begin, int64_t count,
                              double factor) {
  for (const TestTensor* gradient : {&problem.dk, &problem.dv}) {
    const TensorView rows = gradient->View().Rows(begin, count);
    for (int64_t i = 0; i < rows.size(); ++i) SetElement(rows, i, factor * ElementAt(rows, i));
  }
}

// What dense attention makes of stretch s (from 1 on). Its last query reads every key of a stretch
// s times: its output and its gradient are those of a query that reads them once, its log-sum-exp
// has log(s) more, and each of a key's s copies receives 1 / s of what the key would.
inline AttentionProblem DenseStretch(const AttentionProblem& problem, int64_t s) {
  AttentionProblem expected = problem;
  KeepLastQuery(expected);
  reference::DenseAttentionForward(expected.Forward<DenseAttentionForwardArgs>());
  reference::DenseAttentionBackward(expected.Backward<DenseAttentionBackwardArgs>());
  double share = 0;
  for (int64_t i = s; i <= kStretches; ++i) share += 1.0 / static_cast<double>(i);
  ScaleKeyGradients(expected, 0, kStretch, share);
  const TensorView last = expected.logsumexp.View().Rows(kStretch - 1, 1);
  for (int64_t head = 0; head < last.size(); ++head) {
    SetElement(last, head, ElementAt(last, head) + std::log(static_cast<double>(s)));
  }
  return expected;
}

// The first stretch and the last against `expected_of(problem, s)`. A thread adds up the
// log-sum-exp in 2^13 steps, each off by up to half an ulp, and always by the same where the same
// addends come again.
template <typename Ops, typename ExpectedOf>
void ExpectLongAttention(const Ops& ops, const AttentionProblem& problem, StreamPlace place,
                         const ExpectedOf& expected_of) {
  for (const int64_t s : {int64_t{1}, kStretches}) {
    SCOPED_TRACE(testing::Message() << "stretch " << s);
    place.shown = s - 1;
    const AttentionProblem actual = ops.Run(problem, place);
    AttentionProblem expected = expected_of(problem, s);
    const std::vector<Segment> segments = expected.segments;
    for (const Segment& segment : segments) {
      expected.segments = {segment};
      ExpectGpuNear(actual, expected, 0x1p-12);
    }
  }
}

}  // namespace salamander

#endif  // TESTS_GPU_LONG_ATTENTION_H_
