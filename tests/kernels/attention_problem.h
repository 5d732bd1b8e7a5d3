// The stream, tensors and comparisons that the tests of dense and sparse attention share.
#ifndef TESTS_KERNELS_ATTENTION_PROBLEM_H_
#define TESTS_KERNELS_ATTENTION_PROBLEM_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/base/segments.h"
#include "kernels/dense_attention.h"
#include "kernels/sparse_attention.h"
#include "tests/support/random_tensor.h"

namespace salamander {

struct AttentionCase {
  std::vector<int64_t> documents = {70};
  int64_t heads = 2, key_heads = 2, head_dim = 16;
  int64_t gap = 0;         // rows between documents that no segment names, NaN in every input
  double deviation = 1.0;  // of q and k
  DType dtype = DType::kFloat64;
  uint64_t seed = 1;
};

struct AttentionProblem {
  std::vector<Segment> segments;
  double scale = 1.0;
  TestTensor q, k, v, d_out;              // inputs
  TestTensor out, logsumexp, dq, dk, dv;  // results
  TestTensor blocks;                      // sparse only
  int64_t block_size = 64;

  int64_t rows() const { return q.View().dim(0); }
  int64_t key_heads() const { return k.View().dim(1); }

  template <typename Args>  // DenseAttentionForwardArgs or SparseAttentionForwardArgs
  Args Forward() const {
    Args args;
    args.q = q.View(), args.k = k.View(), args.v = v.View();
    args.segments = segments, args.scale = scale;
    args.out = out.View(), args.logsumexp = logsumexp.View();
    SetLists(args);
    return args;
  }

  template <typename Args>  // DenseAttentionBackwardArgs or SparseAttentionBackwardArgs
  Args Backward() const {
    Args args;
    args.q = q.View(), args.k = k.View(), args.v = v.View();
    args.segments = segments, args.scale = scale;
    args.out = out.View(), args.logsumexp = logsumexp.View(), args.d_out = d_out.View();
    args.dq = dq.View(), args.dk = dk.View(), args.dv = dv.View();
    SetLists(args);
    return args;
  }

  AttentionProblem As(DType dtype) const {
    AttentionProblem other = *this;
    for (TestTensor AttentionProblem::*tensor : kTensors) other.*tensor = (this->*tensor).As(dtype);
    return other;
  }

  static constexpr TestTensor AttentionProblem::*kTensors[] = {
      &AttentionProblem::q,     &AttentionProblem::k,   &AttentionProblem::v,
      &AttentionProblem::d_out, &AttentionProblem::out, &AttentionProblem::logsumexp,
      &AttentionProblem::dq,    &AttentionProblem::dk,  &AttentionProblem::dv};
  static constexpr TestTensor AttentionProblem::*kResults[] = {
      &AttentionProblem::out, &AttentionProblem::logsumexp, &AttentionProblem::dq,
      &AttentionProblem::dk, &AttentionProblem::dv};

 private:
  template <typename Args>
  void SetLists(Args& args) const {
    if constexpr (requires { args.blocks; }) {
      args.blocks = blocks.View(), args.block_size = block_size;
    }
  }
};

// Results start as zeros, so that dk and dv hold the gradient alone.
inline AttentionProblem RandomAttention(const AttentionCase& c) {
  AttentionProblem problem;
  int64_t rows = c.gap;
  for (const int64_t length : c.documents) {
    problem.segments.push_back(
        {.query_begin = rows, .query_count = length, .key_begin = rows, .first_position = 0});
    rows += length + c.gap;
  }
  problem.scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  const auto normal = [&](int64_t heads, uint64_t stream, double deviation) {
    return TestTensor::Normal(c.dtype, {rows, heads, c.head_dim}, 10 * c.seed + stream, deviation);
  };
  problem.q = normal(c.heads, 1, c.deviation);
  problem.k = normal(c.key_heads, 2, c.deviation);
  problem.v = normal(c.key_heads, 3, 1.0);
  problem.d_out = normal(c.heads, 4, 1.0);
  problem.out = TestTensor(c.dtype, {rows, c.heads, c.head_dim});
  problem.logsumexp = TestTensor(c.dtype, {rows, c.heads});
  problem.dq = TestTensor(c.dtype, {rows, c.heads, c.head_dim});
  problem.dk = TestTensor(c.dtype, {rows, c.key_heads, c.head_dim});
  problem.dv = TestTensor(c.dtype, {rows, c.key_heads, c.head_dim});
  int64_t gap_begin = 0;
  for (size_t document = 0; document <= c.documents.size() && c.gap > 0; ++document) {
    for (TestTensor* tensor : {&problem.q, &problem.k, &problem.v, &problem.d_out}) {
      tensor->PoisonRows(gap_begin, c.gap);
    }
    if (document < c.documents.size()) gap_begin += c.gap + c.documents[document];
  }
  return problem;
}

// Rounding errors of sums of `terms` in `dtype` behave like a random walk; the factor 8 covers the
// few roundings between the sums (score, exponential, quotient).
inline double RmseBound(DType dtype, int64_t terms) {
  const double unit = dtype == DType::kFloat32 ? 0x1p-24 : 0x1p-53;
  return 8 * unit * std::sqrt(static_cast<double>(terms));
}

// Every result of `actual` against fp64 results. Inputs are of order 1, so errors are of the order
// of `bound` even where a gradient cancels to zero (a document of one token).
inline void ExpectResultsNear(const AttentionProblem& actual, const AttentionProblem& expected,
                              double bound) {
  const char* const names[] = {"out", "logsumexp", "dq", "dk", "dv"};
  int index = 0;
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    const TensorView a = (actual.*result).View(), e = (expected.*result).View();
    double squares = 0, error_squares = 0, largest = 1;
    for (int64_t i = 0; i < e.size(); ++i) {
      const double value = ElementAt(e, i), error = ElementAt(a, i) - value;
      squares += value * value, error_squares += error * error;
      largest = std::max(largest, std::abs(value));
    }
    const auto size = static_cast<double>(e.size());
    EXPECT_LE(std::sqrt(error_squares / size), bound * std::max(1.0, std::sqrt(squares / size)))
        << names[index];
    // One element among many may be off by several deviations of the largest.
    EXPECT_LE(MaxAbsDifference(a, e), 10 * bound * largest) << names[index];
    ++index;
  }
}

inline void ExpectResultsBitwiseEqual(const AttentionProblem& a, const AttentionProblem& b) {
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    EXPECT_TRUE(BitwiseEqual((a.*result).View(), (b.*result).View()));
  }
}

}  // namespace salamander

#endif  // TESTS_KERNELS_ATTENTION_PROBLEM_H_
