#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/dense_attention.h"
#include "tests/gpu/gpu_context.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

struct Shape {
  std::vector<int64_t> documents;
  int64_t heads = 16, key_heads = 1, head_dim = 128;
  int64_t gap = 0;             // rows of NaN before each document and behind the last
  int64_t first_position = 0;  // keys of each document that are there before its queries
  double scale = 0.09;
};

struct Problem {
  Shape shape;
  std::vector<Segment> segments;
  TestTensor q, k, v, d_out, dk_before, dv_before;

  explicit Problem(const Shape& s) : shape(s) {
    int64_t row = s.gap, key_row = s.gap;
    for (const int64_t length : s.documents) {
      segments.push_back({.query_begin = row,
                          .query_count = length,
                          .key_begin = key_row,
                          .first_position = s.first_position});
      row += length + s.gap;
      key_row += s.first_position + length + s.gap;
    }
    const auto normal = [](int64_t rows, int64_t heads, int64_t width, uint64_t seed) {
      return Rounded(TestTensor::Normal(DType::kFloat64, {rows, heads, width}, seed));
    };
    q = normal(row, s.heads, s.head_dim, 1);
    k = normal(key_row, s.key_heads, s.head_dim, 2);
    v = normal(key_row, s.key_heads, s.head_dim, 3);
    d_out = normal(row, s.heads, s.head_dim, 4);
    dk_before = normal(key_row, s.key_heads, s.head_dim, 5);
    dv_before = normal(key_row, s.key_heads, s.head_dim, 6);
    for (const auto& [begin, count] : Gaps(true)) {
      q.PoisonRows(begin, count);
      d_out.PoisonRows(begin, count);
    }
    for (const auto& [begin, count] : Gaps(false)) {
      k.PoisonRows(begin, count);
      v.PoisonRows(begin, count);
    }
  }

  // Runs of rows that no document names, among the queries or the keys.
  std::vector<std::pair<int64_t, int64_t>> Gaps(bool of_queries) const {
    std::vector<std::pair<int64_t, int64_t>> gaps;
    if (shape.gap == 0) return gaps;
    int64_t row = 0;
    for (const Segment& segment : segments) {
      gaps.emplace_back(row, shape.gap);
      row += shape.gap + (of_queries ? segment.query_count : segment.key_count());
    }
    gaps.emplace_back(row, shape.gap);
    return gaps;
  }
};

struct Result {
  TestTensor out, logsumexp, dq, dk, dv;
};

TensorView LikeQueries(GpuContext& gpu, const Problem& problem) {
  return gpu.Poisoned(DType::kBFloat16,
                      {problem.q.View().dim(0), problem.shape.heads, problem.shape.head_dim});
}

Result RunOnGpu(const Problem& p, const DeviceOptions& options = {}) {
  GpuContext gpu(int64_t{1} << 30, int64_t{1} << 30, options);
  const TensorView q = gpu.Upload(p.q), k = gpu.Upload(p.k), v = gpu.Upload(p.v);
  const TensorView out = LikeQueries(gpu, p), dq = LikeQueries(gpu, p);
  const TensorView logsumexp = gpu.Poisoned(DType::kFloat32, {q.dim(0), q.dim(1)});
  const TensorView dk = gpu.Upload(p.dk_before), dv = gpu.Upload(p.dv_before);
  const absl::Status forward = DenseAttentionForward(gpu, {.q = q,
                                                           .k = k,
                                                           .v = v,
                                                           .segments = p.segments,
                                                           .scale = p.shape.scale,
                                                           .out = out,
                                                           .logsumexp = logsumexp});
  EXPECT_TRUE(forward.ok()) << forward;
  const absl::Status backward = DenseAttentionBackward(gpu, {.q = q,
                                                             .k = k,
                                                             .v = v,
                                                             .segments = p.segments,
                                                             .scale = p.shape.scale,
                                                             .out = out,
                                                             .logsumexp = logsumexp,
                                                             .d_out = gpu.Upload(p.d_out),
                                                             .dq = dq,
                                                             .dk = dk,
                                                             .dv = dv});
  EXPECT_TRUE(backward.ok()) << backward;
  return {gpu.Download(out), gpu.Download(logsumexp), gpu.Download(dq), gpu.Download(dk),
          gpu.Download(dv)};
}

// The CPU's op in fp64, which tests/kernels holds to the slow twin.
Result Expected(const Problem& p) {
  const TestContext context;
  const TensorView q = p.q.View();
  Result result = {TestTensor(DType::kFloat64, {q.dim(0), q.dim(1), q.dim(2)}),
                   TestTensor(DType::kFloat64, {q.dim(0), q.dim(1)}),
                   TestTensor(DType::kFloat64, {q.dim(0), q.dim(1), q.dim(2)}), p.dk_before,
                   p.dv_before};
  EXPECT_TRUE(DenseAttentionForward(context, {.q = q,
                                              .k = p.k.View(),
                                              .v = p.v.View(),
                                              .segments = p.segments,
                                              .scale = p.shape.scale,
                                              .out = result.out.View(),
                                              .logsumexp = result.logsumexp.View()})
                  .ok());
  EXPECT_TRUE(DenseAttentionBackward(context, {.q = q,
                                               .k = p.k.View(),
                                               .v = p.v.View(),
                                               .segments = p.segments,
                                               .scale = p.shape.scale,
                                               .out = result.out.View(),
                                               .logsumexp = result.logsumexp.View(),
                                               .d_out = p.d_out.View(),
                                               .dq = result.dq.View(),
                                               .dk = result.dk.View(),
                                               .dv = result.dv.View()})
                  .ok());
  return result;
}

// Probabilities are rounded to bf16 before they meet the values, and the result is.
constexpr double kOutBound = 2 * kBFloat16Rounding;
// Rounded are out, which the row sums of the gradient stand on, the scores' gradient or the
// probabilities, the key gradient of each head, and the result.
constexpr double kGradientBound = 4 * kBFloat16Rounding;
// Scores are fp32 sums over the head, their exponentials come from the special function unit.
constexpr double kLogSumExpBound = 0x1p-18;

void ExpectClose(const Problem& p, const Result& actual, const Result& expected,
                 double query_gradient_bound = kGradientBound) {
  double largest = 1.0;
  for (int64_t i = 0; i < expected.logsumexp.size(); ++i) {
    if (std::isfinite(expected.logsumexp.At(i))) {
      largest = std::max(largest, std::abs(expected.logsumexp.At(i)));
    }
  }
  for (const Segment& s : p.segments) {
    SCOPED_TRACE(testing::Message() << s.query_count << " queries from row " << s.query_begin);
    const auto queries = [&](const TestTensor& t) {
      return t.View().Rows(s.query_begin, s.query_count);
    };
    const auto keys = [&](const TestTensor& t) {
      return t.View().Rows(s.key_begin, s.key_count());
    };
    EXPECT_LE(RelativeRmse(queries(actual.out), queries(expected.out)), kOutBound);
    EXPECT_LE(MaxAbsDifference(queries(actual.logsumexp), queries(expected.logsumexp)),
              kLogSumExpBound * largest);
    // A first token attends to itself alone: its query has no gradient, only the rounding of one.
    if (s.key_count() > 1) {
      EXPECT_LE(RelativeRmse(queries(actual.dq), queries(expected.dq)), query_gradient_bound);
    }
    EXPECT_LE(RelativeRmse(keys(actual.dk), keys(expected.dk)), kGradientBound);
    EXPECT_LE(RelativeRmse(keys(actual.dv), keys(expected.dv)), kGradientBound);
  }
}

bool IsUntouched(const TensorView& rows) {
  const auto* const bytes = static_cast<const unsigned char*>(rows.raw());
  return std::all_of(bytes, bytes + rows.bytes(), [](unsigned char byte) { return byte == 0xFF; });
}

void ExpectGapsUntouched(const Problem& p, const Result& actual) {
  for (const auto& [begin, count] : p.Gaps(true)) {
    SCOPED_TRACE(testing::Message() << "gap at query row " << begin);
    EXPECT_TRUE(IsUntouched(actual.out.View().Rows(begin, count)));
    EXPECT_TRUE(IsUntouched(actual.dq.View().Rows(begin, count)));
    EXPECT_TRUE(IsUntouched(actual.logsumexp.View().Rows(begin, count)));
  }
  const TestTensor dk = p.dk_before.As(DType::kBFloat16), dv = p.dv_before.As(DType::kBFloat16);
  for (const auto& [begin, count] : p.Gaps(false)) {
    SCOPED_TRACE(testing::Message() << "gap at key row " << begin);
    EXPECT_TRUE(BitwiseEqual(actual.dk.View().Rows(begin, count), dk.View().Rows(begin, count)));
    EXPECT_TRUE(BitwiseEqual(actual.dv.View().Rows(begin, count), dv.View().Rows(begin, count)));
  }
}

void ExpectMatchesCpu(const Shape& shape, const DeviceOptions& options = {}) {
  const Problem problem(shape);
  const Result actual = RunOnGpu(problem, options);
  ExpectClose(problem, actual, Expected(problem));
  ExpectGapsUntouched(problem, actual);
}

TEST(DenseAttentionGpuTest, OneDocumentMatchesTheCpuInFp64) {
  SKIP_WITHOUT_GPU();
  for (const int64_t length : {1, 127, 128, 129, 192, 1000, 1024, 1536}) {
    for (const int64_t head_dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << length << " tokens, head_dim " << head_dim);
      ExpectMatchesCpu({.documents = {length}, .head_dim = head_dim});
    }
  }
}

TEST(DenseAttentionGpuTest, HeadsOfAnyGroupingMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape :
       {Shape{.documents = {300}, .heads = 32, .key_heads = 2},
        Shape{.documents = {300}, .heads = 3, .key_heads = 3, .head_dim = 64},
        Shape{.documents = {300}, .heads = 6, .key_heads = 2},
        Shape{.documents = {300}, .heads = 4, .key_heads = 2, .head_dim = 32},
        Shape{.documents = {300}, .heads = 4, .key_heads = 2, .head_dim = 96}}) {
    SCOPED_TRACE(testing::Message()
                 << shape.heads << " on " << shape.key_heads << " of " << shape.head_dim);
    ExpectMatchesCpu(shape);
  }
}

TEST(DenseAttentionGpuTest, PackedDocumentsOfAllLengthsMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const int64_t head_dim : {64, 128}) {
    SCOPED_TRACE(head_dim);
    ExpectMatchesCpu({.documents = {1, 513, 129, 64, 130, 200, 777, 1, 128, 300},
                      .heads = 8,
                      .key_heads = 2,
                      .head_dim = head_dim});
  }
}

TEST(DenseAttentionGpuTest, RowsOfNaNBetweenDocumentsAreNeitherReadNorWritten) {
  SKIP_WITHOUT_GPU();
  for (const int64_t gap : {1, 70, 200}) {
    for (const int64_t head_dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << "gap " << gap << ", head_dim " << head_dim);
      ExpectMatchesCpu({.documents = {130, 513, 5, 129, 192, 320},
                        .heads = 8,
                        .key_heads = 2,
                        .head_dim = head_dim,
                        .gap = gap});
    }
  }
}

TEST(DenseAttentionGpuTest, QueriesBehindCachedKeysMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const int64_t queries : {1, 150}) {
    SCOPED_TRACE(queries);
    ExpectMatchesCpu(
        {.documents = {queries, queries}, .heads = 8, .key_heads = 2, .first_position = 333});
  }
}

// All scores near -200: what a mask leaves of a tile must not reach exp() without the mask.
TEST(DenseAttentionGpuTest, StronglyNegativeScoresStayFinite) {
  SKIP_WITHOUT_GPU();
  constexpr double kDeviation = 0.3;
  for (const std::vector<int64_t>& documents :
       {std::vector<int64_t>{192, 150}, {448}, {1000, 576}, {1024}}) {
    for (const int64_t head_dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << documents[0] << " tokens, head_dim " << head_dim);
      Problem p({.documents = documents, .heads = 4, .key_heads = 2, .head_dim = head_dim});
      const double offset = std::sqrt(200.0 / (p.shape.scale * static_cast<double>(head_dim)));
      for (int64_t i = 0; i < p.q.size(); ++i) p.q.Set(i, kDeviation * p.q.At(i) + offset);
      for (int64_t i = 0; i < p.k.size(); ++i) p.k.Set(i, kDeviation * p.k.At(i) - offset);
      p.q = Rounded(p.q);
      p.k = Rounded(p.k);
      const Result actual = RunOnGpu(p), expected = Expected(p);
      EXPECT_LT(expected.logsumexp.At(0), -100.0);
      // A query's scores have gradients of sum 0, in which the offset that all keys share cancels;
      // the rounding of those gradients meets the whole key.
      ExpectClose(p, actual, expected, kGradientBound * offset / kDeviation);
    }
  }
}

TEST(DenseAttentionGpuTest, LaterDocumentsAndEarlierTokensDoNotSeeAChange) {
  SKIP_WITHOUT_GPU();
  const Problem before({.documents = {200, 300, 140}, .heads = 4, .key_heads = 2});
  Problem after = before;
  constexpr int64_t kChanged = 250;  // in the second document
  for (int64_t i = 0; i < 2 * 128; ++i) {
    after.k.Set(kChanged * 256 + i, 1.5);
    after.v.Set(kChanged * 256 + i, -1.5);
  }
  const Result first = RunOnGpu(before), second = RunOnGpu(after);
  const auto equal = [&](int64_t begin, int64_t count) {
    return BitwiseEqual(second.out.View().Rows(begin, count), first.out.View().Rows(begin, count));
  };
  EXPECT_TRUE(equal(0, kChanged));
  EXPECT_FALSE(equal(kChanged, 1));
  EXPECT_FALSE(equal(499, 1));
  EXPECT_TRUE(equal(500, 140));
}

TEST(DenseAttentionGpuTest, ForwardRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  const Problem problem({.documents = {700, 300, 40}, .heads = 8, .key_heads = 2});
  const Result first = RunOnGpu(problem), second = RunOnGpu(problem);
  EXPECT_TRUE(BitwiseEqual(first.out.View(), second.out.View()));
  EXPECT_TRUE(BitwiseEqual(first.logsumexp.View(), second.logsumexp.View()));
}

// Block attention differentiates what cuDNN's forward left, whichever graph that went by: one
// document that is the whole stream, one of another length, packed ones among such as cuDNN never
// sees.
TEST(DenseAttentionGpuTest, DeterministicGradientsMatchTheCpuInFp64) {
  SKIP_WITHOUT_GPU();
  for (const std::vector<int64_t>& documents :
       {std::vector<int64_t>{1024}, {1000}, {1, 513, 129, 64, 300}}) {
    for (const int64_t head_dim : {64, 128}) {
      for (const int64_t gap : {0, 70}) {
        SCOPED_TRACE(testing::Message() << testing::PrintToString(documents) << " head_dim "
                                        << head_dim << " gap " << gap);
        ExpectMatchesCpu(
            {.documents = documents, .heads = 8, .key_heads = 2, .head_dim = head_dim, .gap = gap},
            kDeterministic);
      }
    }
  }
}

// Dozens of key tiles add to the gradient of each late query: cuDNN does so as they come.
TEST(DenseAttentionGpuTest, DeterministicGradientsRepeatBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const std::vector<int64_t>& documents : {std::vector<int64_t>{4096}, {40, 2500, 700}}) {
    SCOPED_TRACE(testing::PrintToString(documents));
    const Problem problem({.documents = documents});
    const Result first = RunOnGpu(problem, kDeterministic);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const Result again = RunOnGpu(problem, kDeterministic);
      for (TestTensor Result::*result :
           {&Result::out, &Result::logsumexp, &Result::dq, &Result::dk, &Result::dv}) {
        EXPECT_TRUE(BitwiseEqual((again.*result).View(), (first.*result).View()));
      }
    }
  }
}

TEST(DenseAttentionGpuTest, LogSumExpIsOptional) {
  SKIP_WITHOUT_GPU();
  const Problem p({.documents = {300, 20}, .heads = 8, .key_heads = 2});
  const Result whole = RunOnGpu(p);
  GpuContext gpu;
  const TensorView out = LikeQueries(gpu, p);
  ASSERT_TRUE(DenseAttentionForward(gpu, {.q = gpu.Upload(p.q),
                                          .k = gpu.Upload(p.k),
                                          .v = gpu.Upload(p.v),
                                          .segments = p.segments,
                                          .scale = p.shape.scale,
                                          .out = out,
                                          .logsumexp = {}})
                  .ok());
  EXPECT_TRUE(BitwiseEqual(gpu.Download(out).View(), whole.out.View()));
}

}  // namespace
}  // namespace salamander
