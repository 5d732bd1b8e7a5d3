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

#include "tests/gpu/attention_stream.h"
#include "tests/kernels/attention_problem.h"

namespace salamander {

// A problem whose inputs are what the device sees of them. dk and dv hold something to be added to,
// of this deviation.
inline AttentionProblem RoundedAttention(const AttentionCase& c, double gradient_before = 0.05) {
  AttentionProblem problem = RandomAttention(c);
  const auto before = [&](uint64_t seed) {
    return TestTensor::Normal(DType::kFloat64, {problem.rows(), c.key_heads, c.head_dim}, seed,
                              gradient_before);
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
  AttentionProblem Run(const AttentionProblem& problem, const StreamPlace& place = {}) const {
    const AttentionStream stream(problem, place);
    GpuContext gpu(stream.bytes(), place.scratch_bytes, place.options);
    AttentionProblem result = problem;
    const std::vector<Segment> segments = stream.segments();
    const auto upload = [&](const TestTensor& rows) { return stream.Upload(gpu, rows); };
    const auto download = [&](const TensorView& rows) {
      return stream.Download(gpu, rows).As(DType::kFloat64);
    };
    ForwardArgs args;
    args.q = upload(problem.q), args.k = upload(problem.k), args.v = upload(problem.v);
    args.segments = segments, args.scale = problem.scale;
    args.out = stream.Poisoned(gpu, problem.out);
    if (!problem.logsumexp.View().empty()) {
      args.logsumexp = stream.Poisoned(gpu, problem.logsumexp, DType::kFloat32);
    }
    if constexpr (requires { args.blocks; }) {
      args.blocks = upload(problem.blocks), args.block_size = problem.block_size;
    }
    const absl::Status forward_status = forward(gpu, args);
    EXPECT_TRUE(forward_status.ok()) << forward_status;
    result.out = download(args.out);
    if (args.logsumexp.empty()) return result;
    BackwardArgs gradients;
    gradients.q = args.q, gradients.k = args.k, gradients.v = args.v;
    gradients.segments = args.segments, gradients.scale = args.scale;
    gradients.out = args.out, gradients.logsumexp = args.logsumexp;
    gradients.d_out = upload(problem.d_out);
    gradients.dq = stream.Poisoned(gpu, problem.dq);
    gradients.dk = upload(problem.dk), gradients.dv = upload(problem.dv);
    if constexpr (requires { args.blocks; }) {
      gradients.blocks = args.blocks, gradients.block_size = args.block_size;
    }
    const absl::Status backward_status = backward(gpu, gradients);
    EXPECT_TRUE(backward_status.ok()) << backward_status;
    EXPECT_TRUE(gpu.Wait().ok());
    result.logsumexp = download(args.logsumexp);
    result.dq = download(gradients.dq);
    result.dk = download(gradients.dk);
    result.dv = download(gradients.dv);
    return result;
  }
};

// A head that no kernel is built for.
template <typename ForwardArgs, typename BackwardArgs>
void ExpectWideHeadRefused(const AttentionOps<ForwardArgs, BackwardArgs>& ops) {
  GpuContext gpu(int64_t{1} << 20, int64_t{1} << 20);
  const std::vector<Segment> segments = {{.query_begin = 0, .query_count = 2}};
  const TensorView wide = gpu.Zeros(DType::kBFloat16, {2, 1, 144});
  const auto set = [&](auto& args) {
    args.q = args.k = args.v = args.out = wide;
    args.segments = segments;
    args.logsumexp = gpu.Zeros(DType::kFloat32, {2, 1});
    if constexpr (requires { args.blocks; }) args.blocks = gpu.Zeros(DType::kInt32, {2, 1, 1});
  };
  ForwardArgs args;
  set(args);
  ExpectUnimplemented(ops.forward(gpu, args), {"attention", "144", "1 to 128", "device: cpu"});
  BackwardArgs gradients;
  set(gradients);
  gradients.d_out = gradients.dq = gradients.dk = gradients.dv = wide;
  ExpectUnimplemented(ops.backward(gpu, gradients),
                      {"attention backward", "144", "1 to 128", "device: cpu"});
}

// Documents across the stream's element 2^31, as many heads on either side.
inline AttentionProblem OffsetAttention() {
  return RoundedAttention(
      {.documents = {260, 1, 69}, .heads = 32, .key_heads = 32, .head_dim = kLongWidth / 32});
}
inline StreamPlace EndOfLongStream(const AttentionProblem& problem) {
  return {.before = kLongTokens - problem.rows()};
}

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
  const TensorView rows = actual.View(), expected_rows = expected.View();
  const int64_t row_size = expected_rows.row_size();
  double squares = 0, error_squares = 0, count = 0;
  for (int64_t i = 0; i < expected_rows.size(); ++i) {
    if (!named[static_cast<size_t>(i / row_size)]) continue;
    const double value = ElementAt(expected_rows, i), error = ElementAt(rows, i) - value;
    squares += value * value, error_squares += error * error, count += 1;
  }
  EXPECT_LE(std::sqrt(error_squares / count), bound * std::sqrt(squares / count) + least) << name;
}

// Weights are rounded to bf16 before they meet the values, and so is the output: two roundings. A
// gradient has those of the weights (or of the score's gradient), of the output in delta, of the
// query's or the key's side, and its own: four. Where everything cancels (a document of one token),
// fp32 sums over the head are left. `logsumexp_error` is what long sums may add.
inline void ExpectGpuNear(const AttentionProblem& actual, const AttentionProblem& expected,
                          double logsumexp_error = 0.0) {
  const std::vector<bool> queries = NamedRows(expected, false), keys = NamedRows(expected, true);
  const auto dim = static_cast<double>(expected.q.View().dim(2));
  const double least = dim * 0x1p-22;
  ExpectRowsNear(actual.out, expected.out, queries, 2 * kBFloat16Rounding, least, "out");
  ExpectRowsNear(actual.logsumexp, expected.logsumexp, queries, 0x1p-22, least + logsumexp_error,
                 "logsumexp");
  ExpectRowsNear(actual.dq, expected.dq, queries, 4 * kBFloat16Rounding, least, "dq");
  ExpectRowsNear(actual.dk, expected.dk, keys, 4 * kBFloat16Rounding, least, "dk");
  ExpectRowsNear(actual.dv, expected.dv, keys, 4 * kBFloat16Rounding, least, "dv");
}

inline void ExpectOtherRowsUntouched(const AttentionProblem& before,
                                     const AttentionProblem& after) {
  const std::vector<bool> queries = NamedRows(before, false), keys = NamedRows(before, true);
  for (const TestTensor* tensor : {&after.out, &after.logsumexp, &after.dq}) {
    const TensorView rows = tensor->View();
    const int64_t row_size = rows.row_size();
    for (int64_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(std::isnan(ElementAt(rows, i)), !queries[static_cast<size_t>(i / row_size)]) << i;
    }
  }
  for (TestTensor AttentionProblem::*gradient : {&AttentionProblem::dk, &AttentionProblem::dv}) {
    const TensorView old = (before.*gradient).View(), fresh = (after.*gradient).View();
    const int64_t row_size = old.row_size();
    for (int64_t i = 0; i < old.size(); ++i) {
      if (keys[static_cast<size_t>(i / row_size)]) {
        ASSERT_TRUE(std::isfinite(ElementAt(fresh, i))) << i;
      } else {
        ASSERT_EQ(ElementAt(fresh, i), ElementAt(old, i)) << i;
      }
    }
  }
}

// The problem with NaN in the first and the last token of a document.
inline AttentionProblem WithNaN(AttentionProblem problem, const Segment& document) {
  for (TestTensor* tensor : {&problem.q, &problem.k, &problem.v, &problem.d_out}) {
    tensor->PoisonRows(document.query_begin, 1);
    tensor->PoisonRows(document.query_begin + document.query_count - 1, 1);
  }
  return problem;
}

// Whether NaN in one document, each in turn, changes nothing in the others, and shows in its own.
template <typename Ops>
void ExpectNaNStaysInItsDocument(const Ops& ops, const AttentionProblem& problem) {
  const AttentionProblem clean = ops.Run(problem);
  for (const Segment& poisoned : problem.segments) {
    const AttentionProblem actual = ops.Run(WithNaN(problem, poisoned));
    for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
      const TensorView a = (actual.*result).View(), c = (clean.*result).View();
      for (const Segment& document : problem.segments) {
        const int64_t begin = document.query_begin, count = document.query_count;
        if (begin != poisoned.query_begin) {
          EXPECT_TRUE(BitwiseEqual(a.Rows(begin, count), c.Rows(begin, count)));
        } else {
          EXPECT_TRUE(std::isnan(ElementAt(a.Rows(begin + count - 1, 1), 0)));
        }
      }
    }
  }
}

}  // namespace salamander

#endif  // TESTS_GPU_ATTENTION_ON_GPU_H_
