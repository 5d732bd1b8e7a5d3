// Runs an attention problem on the device and compares it with its fp64 twin: what the tests of
// block dense and sparse attention share.
#ifndef TESTS_GPU_ATTENTION_ON_GPU_H_
#define TESTS_GPU_ATTENTION_ON_GPU_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "absl/status/status.h"

#include "tests/gpu/gpu_context.h"
#include "tests/kernels/attention_problem.h"

namespace salamander {

// A problem whose inputs are what the device sees of them. dk and dv hold something small to be
// added to.
inline AttentionProblem RoundedAttention(const AttentionCase& c) {
  AttentionProblem problem = RandomAttention(c);
  const auto before = [&](uint64_t seed) {
    return TestTensor::Normal(DType::kFloat64, {problem.rows(), c.key_heads, c.head_dim}, seed,
                              0.05);
  };
  problem.dk = before(91);
  problem.dv = before(92);
  for (TestTensor AttentionProblem::*tensor :
       {&AttentionProblem::q, &AttentionProblem::k, &AttentionProblem::v, &AttentionProblem::d_out,
        &AttentionProblem::dk, &AttentionProblem::dv}) {
    problem.*tensor = Rounded(problem.*tensor);
  }
  return problem;
}

template <typename ForwardArgs, typename BackwardArgs>
struct AttentionOps {
  absl::Status (*forward)(const ExecutionContext&, const ForwardArgs&);
  absl::Status (*backward)(const ExecutionContext&, const BackwardArgs&);

  // The problem with the device's results: NaN where nothing wrote.
  AttentionProblem Run(const AttentionProblem& problem) const {
    GpuContext gpu(int64_t{256} << 20, int64_t{256} << 20);
    AttentionProblem result = problem;
    const int64_t rows = problem.rows(), heads = problem.q.View().dim(1),
                  dim = problem.q.View().dim(2);
    ForwardArgs args;
    args.q = gpu.Upload(problem.q), args.k = gpu.Upload(problem.k), args.v = gpu.Upload(problem.v);
    args.segments = problem.segments, args.scale = problem.scale;
    args.out = gpu.Poisoned(DType::kBFloat16, {rows, heads, dim});
    if (!problem.logsumexp.View().empty()) {
      args.logsumexp = gpu.Poisoned(DType::kFloat32, {rows, heads});
    }
    SetLists(gpu, problem, args);
    EXPECT_TRUE(forward(gpu, args).ok());
    result.out = gpu.Download(args.out).As(DType::kFloat64);
    if (args.logsumexp.empty()) return result;
    BackwardArgs gradients;
    gradients.q = args.q, gradients.k = args.k, gradients.v = args.v;
    gradients.segments = args.segments, gradients.scale = args.scale;
    gradients.out = args.out, gradients.logsumexp = args.logsumexp;
    gradients.d_out = gpu.Upload(problem.d_out);
    gradients.dq = gpu.Poisoned(DType::kBFloat16, {rows, heads, dim});
    gradients.dk = gpu.Upload(problem.dk), gradients.dv = gpu.Upload(problem.dv);
    if constexpr (requires { args.blocks; }) {
      gradients.blocks = args.blocks, gradients.block_size = args.block_size;
    }
    EXPECT_TRUE(backward(gpu, gradients).ok());
    EXPECT_TRUE(gpu.Wait().ok());
    result.logsumexp = gpu.Download(args.logsumexp).As(DType::kFloat64);
    result.dq = gpu.Download(gradients.dq).As(DType::kFloat64);
    result.dk = gpu.Download(gradients.dk).As(DType::kFloat64);
    result.dv = gpu.Download(gradients.dv).As(DType::kFloat64);
    return result;
  }

 private:
  static void SetLists(GpuContext& gpu, const AttentionProblem& problem, ForwardArgs& args) {
    if constexpr (requires { args.blocks; }) {
      args.blocks = gpu.Upload(problem.blocks), args.block_size = problem.block_size;
    }
  }
};

// Which rows the segments name, of the queries or of the keys.
inline std::vector<bool> NamedRows(const AttentionProblem& problem, bool of_keys) {
  std::vector<bool> named(static_cast<size_t>(problem.rows()));
  for (const Segment& segment : problem.segments) {
    const int64_t begin = of_keys ? segment.key_begin : segment.query_begin;
    const int64_t count = of_keys ? segment.key_count() : segment.query_count;
    std::fill_n(named.begin() + begin, count, true);
  }
  return named;
}

// rms(actual - expected) over the named rows, at most bound * rms(expected) + least.
inline void ExpectRowsNear(const TestTensor& actual, const TestTensor& expected,
                           const std::vector<bool>& named, double bound, double least,
                           const char* name) {
  const int64_t row_size = expected.View().row_size();
  double squares = 0, error_squares = 0, count = 0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    if (!named[static_cast<size_t>(i / row_size)]) continue;
    const double error = actual.At(i) - expected.At(i);
    squares += expected.At(i) * expected.At(i), error_squares += error * error, count += 1;
  }
  EXPECT_LE(std::sqrt(error_squares / count), bound * std::sqrt(squares / count) + least) << name;
}

// Weights are rounded to bf16 before they meet the values, and so is the output: two roundings. A
// gradient has those of the weights (or of the score's gradient), of the output in delta, of the
// query's or the key's side, and its own: four. Where everything cancels (a document of one token),
// fp32 sums over the head are left.
inline void ExpectGpuNear(const AttentionProblem& actual, const AttentionProblem& expected) {
  const std::vector<bool> queries = NamedRows(expected, false), keys = NamedRows(expected, true);
  const auto dim = static_cast<double>(expected.q.View().dim(2));
  const double least = dim * 0x1p-22;
  ExpectRowsNear(actual.out, expected.out, queries, 2 * kBFloat16Rounding, least, "out");
  ExpectRowsNear(actual.logsumexp, expected.logsumexp, queries, 0x1p-22, least, "logsumexp");
  ExpectRowsNear(actual.dq, expected.dq, queries, 4 * kBFloat16Rounding, least, "dq");
  ExpectRowsNear(actual.dk, expected.dk, keys, 4 * kBFloat16Rounding, least, "dk");
  ExpectRowsNear(actual.dv, expected.dv, keys, 4 * kBFloat16Rounding, least, "dv");
}

inline void ExpectOtherRowsUntouched(const AttentionProblem& before,
                                     const AttentionProblem& after) {
  const std::vector<bool> queries = NamedRows(before, false), keys = NamedRows(before, true);
  for (const TestTensor* tensor : {&after.out, &after.logsumexp, &after.dq}) {
    const int64_t row_size = tensor->View().row_size();
    for (int64_t i = 0; i < tensor->size(); ++i) {
      ASSERT_EQ(std::isnan(tensor->At(i)), !queries[static_cast<size_t>(i / row_size)]) << i;
    }
  }
  for (TestTensor AttentionProblem::*gradient : {&AttentionProblem::dk, &AttentionProblem::dv}) {
    const TestTensor &old = before.*gradient, &fresh = after.*gradient;
    const int64_t row_size = old.View().row_size();
    for (int64_t i = 0; i < old.size(); ++i) {
      if (keys[static_cast<size_t>(i / row_size)]) {
        ASSERT_TRUE(std::isfinite(fresh.At(i))) << i;
      } else {
        ASSERT_EQ(fresh.At(i), old.At(i)) << i;
      }
    }
  }
}

}  // namespace salamander

#endif  // TESTS_GPU_ATTENTION_ON_GPU_H_
