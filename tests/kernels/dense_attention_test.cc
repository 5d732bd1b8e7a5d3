#include "kernels/dense_attention.h"

#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/attention_problem.h"
#include "tests/reference/attention.h"
#include "tests/support/finite_difference.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

void RunForward(const AttentionProblem& problem) {
  TestContext context;
  ASSERT_TRUE(DenseAttentionForward(context, problem.Forward<DenseAttentionForwardArgs>()).ok());
}

void RunBoth(const AttentionProblem& problem) {
  RunForward(problem);
  TestContext context;
  ASSERT_TRUE(DenseAttentionBackward(context, problem.Backward<DenseAttentionBackwardArgs>()).ok());
}

AttentionProblem Twin(const AttentionProblem& problem) {
  AttentionProblem twin = problem.As(DType::kFloat64);
  reference::DenseAttentionForward(twin.Forward<DenseAttentionForwardArgs>());
  reference::DenseAttentionBackward(twin.Backward<DenseAttentionBackwardArgs>());
  return twin;
}

struct ShapeCase {
  std::string name;
  AttentionCase shape;
};

void PrintTo(const ShapeCase& shape, std::ostream* stream) {
  *stream << shape.name;
}

class DenseAttentionShapeTest : public testing::TestWithParam<ShapeCase> {};

TEST_P(DenseAttentionShapeTest, MatchesTwinInBothPrecisions) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    AttentionCase shape = GetParam().shape;
    shape.dtype = dtype;
    AttentionProblem problem = RandomAttention(shape);
    const AttentionProblem twin = Twin(problem);
    RunBoth(problem);
    int64_t longest = 0;
    for (const int64_t length : shape.documents) longest = std::max(longest, length);
    const int64_t group = shape.heads / shape.key_heads;
    ExpectResultsNear(problem, twin, RmseBound(dtype, longest * group + shape.head_dim));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DenseAttentionShapeTest,
    testing::Values(
        ShapeCase{"OneToken", {.documents = {1}}},
        ShapeCase{"HeadDim8",
                  {.documents = {70, 1, 33}, .heads = 4, .key_heads = 4, .head_dim = 8}},
        ShapeCase{"HeadDim32",
                  {.documents = {65, 129}, .heads = 4, .key_heads = 2, .head_dim = 32}},
        ShapeCase{"HeadDim64", {.documents = {1, 300}, .heads = 2, .key_heads = 1, .head_dim = 64}},
        ShapeCase{"HeadDim128",
                  {.documents = {64, 63}, .heads = 16, .key_heads = 1, .head_dim = 128}},
        ShapeCase{"HeadDim20NoVectorMultiple",
                  {.documents = {90}, .heads = 4, .key_heads = 1, .head_dim = 20}},
        ShapeCase{"GroupOfThree", {.documents = {77, 30}, .heads = 6, .key_heads = 2}},
        ShapeCase{"GroupWiderThanTile", {.documents = {5, 9}, .heads = 80, .key_heads = 1}},
        ShapeCase{"ManyStrips", {.documents = {777}, .heads = 2, .key_heads = 1}},
        ShapeCase{"HundredsOfOneTokenDocuments", {.documents = std::vector<int64_t>(300, 1)}}),
    [](const testing::TestParamInfo<ShapeCase>& test) { return test.param.name; });

TEST(DenseAttentionBackwardTest, MatchesFiniteDifferences) {
  for (const int64_t key_heads : {4, 2, 1}) {
    AttentionProblem problem = RandomAttention(
        {.documents = {5, 1, 67}, .heads = 4, .key_heads = key_heads, .head_dim = 8});
    RunBoth(problem);
    const auto loss = [&] {
      RunForward(problem);
      return Dot(problem.out.View(), problem.d_out.View());
    };
    const FiniteDifferenceOptions options = {.samples = 60};
    EXPECT_TRUE(MatchesFiniteDifferences(loss, problem.q.View(), problem.dq.View(), options));
    EXPECT_TRUE(MatchesFiniteDifferences(loss, problem.k.View(), problem.dk.View(), options));
    EXPECT_TRUE(MatchesFiniteDifferences(loss, problem.v.View(), problem.dv.View(), options));
  }
}

TEST(DenseAttentionBackwardTest, AddsToKeyGradientsAndOverwritesQueryGradients) {
  AttentionProblem problem = RandomAttention({.documents = {40, 300}});
  RunBoth(problem);
  AttentionProblem again = problem;  // its dq, dk and dv hold the gradients already
  RunBoth(again);
  EXPECT_TRUE(BitwiseEqual(again.dq.View(), problem.dq.View()));
  for (int64_t i = 0; i < problem.dk.size(); ++i) {
    ASSERT_EQ(again.dk.At(i), 2 * problem.dk.At(i));
    ASSERT_EQ(again.dv.At(i), 2 * problem.dv.At(i));
  }
}

TEST(DenseAttentionTest, RowsOutsideSegmentsAreNeitherReadNorWritten) {
  const AttentionCase shape = {.documents = {70, 1, 130}, .gap = 3};
  AttentionProblem problem = RandomAttention(shape);
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    TestTensor& tensor = problem.*result;
    for (int64_t i = 0; i < tensor.size(); ++i) tensor.Set(i, 7.0);
  }
  RunBoth(problem);
  std::vector<bool> is_named(static_cast<size_t>(problem.rows()));
  for (const Segment& segment : problem.segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) {
      is_named[static_cast<size_t>(segment.query_begin + i)] = true;
    }
  }
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    const TestTensor& tensor = problem.*result;
    const int64_t row_size = tensor.size() / problem.rows();
    for (int64_t i = 0; i < tensor.size(); ++i) {
      if (is_named[static_cast<size_t>(i / row_size)]) {
        ASSERT_TRUE(std::isfinite(tensor.At(i)));
      } else {
        ASSERT_EQ(tensor.At(i), 7.0);
      }
    }
  }
}

TEST(DenseAttentionTest, LaterDocumentsIgnoreEarlierTokens) {
  const AttentionCase shape = {.documents = {70, 1, 133}, .dtype = DType::kFloat32};
  AttentionProblem before = RandomAttention(shape);
  AttentionProblem after = before;
  const int64_t row = 3 * shape.heads * shape.head_dim;
  for (TestTensor* tensor : {&after.q, &after.k, &after.v, &after.d_out}) {
    tensor->Set(row, tensor->At(row) + 1.0);
  }
  RunBoth(before);
  RunBoth(after);
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    const TensorView a = (before.*result).View(), b = (after.*result).View();
    EXPECT_FALSE(BitwiseEqual(a.Rows(0, 70), b.Rows(0, 70)));
    EXPECT_TRUE(BitwiseEqual(a.Rows(70, 134), b.Rows(70, 134)));
  }
}

TEST(DenseAttentionTest, EarlierTokensIgnoreLaterOnes) {
  AttentionProblem before = RandomAttention({.documents = {200}});
  AttentionProblem after = before;
  const int64_t row = 101 * 2 * 16;
  after.k.Set(row, 5.0);
  after.v.Set(row, 5.0);
  RunForward(before);
  RunForward(after);
  EXPECT_TRUE(BitwiseEqual(before.out.View().Rows(0, 101), after.out.View().Rows(0, 101)));
  EXPECT_FALSE(BitwiseEqual(before.out.View().Rows(101, 1), after.out.View().Rows(101, 1)));
}

TEST(DenseAttentionTest, ResultsDoNotDependOnThreadsOrRun) {
  const AttentionCase shape = {.documents = {530, 1, 90, 700},
                               .heads = 4,
                               .key_heads = 2,
                               .head_dim = 32,
                               .dtype = DType::kFloat32};
  AttentionProblem one = RandomAttention(shape), two = one, five = one, repeat = one;
  {
    ScopedThreadCount threads(1);
    RunBoth(one);
  }
  {
    ScopedThreadCount threads(2);
    RunBoth(two);
    RunBoth(repeat);
  }
  {
    ScopedThreadCount threads(5);
    RunBoth(five);
  }
  ExpectResultsBitwiseEqual(one, two);
  ExpectResultsBitwiseEqual(two, repeat);
  ExpectResultsBitwiseEqual(one, five);
}

TEST(DenseAttentionTest, LargeAndStronglyNegativeLogitsStayFiniteAndRight) {
  AttentionProblem large =
      RandomAttention({.documents = {150}, .deviation = 8.0, .dtype = DType::kFloat32});
  AttentionProblem negative = RandomAttention({.documents = {150}, .dtype = DType::kFloat32});
  for (int64_t i = 0; i < negative.q.size(); ++i) {  // every logit is about -100
    negative.q.Set(i, 5.0 + 0.01 * negative.q.At(i));
    negative.k.Set(i, -5.0 + 0.01 * negative.k.At(i));
  }
  for (AttentionProblem* problem : {&large, &negative}) {
    const AttentionProblem twin = Twin(*problem);
    RunBoth(*problem);
    for (int64_t i = 0; i < problem->out.size(); ++i) {
      ASSERT_TRUE(std::isfinite(problem->out.At(i)) && std::isfinite(problem->dk.At(i)));
      // A logit of 250 carries an absolute error of about 250 * 16 * 2^-24, which exp passes on.
      ASSERT_NEAR(problem->out.At(i), twin.out.At(i), 2e-3);
    }
    EXPECT_LT(MaxAbsDifference(problem->logsumexp.View(), twin.logsumexp.View()), 1e-3);
  }
}

// The segments of `problem` as calls of at most `chunk` queries against the keys so far.
AttentionProblem InChunks(const AttentionProblem& problem, int64_t chunk) {
  AttentionProblem chunked = problem;
  for (int64_t first = 0; first < problem.rows(); first += chunk) {
    const int64_t count = std::min(chunk, problem.rows() - first);
    chunked.segments = {
        {.query_begin = first, .query_count = count, .key_begin = 0, .first_position = first}};
    RunBoth(chunked);
  }
  return chunked;
}

TEST(DenseAttentionTest, ChunkedPrefillEqualsWhole) {
  AttentionProblem whole =
      RandomAttention({.documents = {611}, .heads = 4, .key_heads = 2, .head_dim = 32});
  const AttentionProblem untouched = whole;
  RunBoth(whole);
  for (const int64_t chunk : {100, 256}) {
    const AttentionProblem chunked = InChunks(untouched, chunk);
    EXPECT_TRUE(BitwiseEqual(chunked.out.View(), whole.out.View()));
    ExpectResultsNear(chunked, whole, RmseBound(DType::kFloat64, 611));
  }
}

TEST(DenseAttentionTest, DecodedTokenEqualsLastRowOfFullCall) {
  const int64_t tokens = 4500;  // beyond one part of the keys
  AttentionProblem problem = RandomAttention({.documents = {tokens}, .heads = 4, .key_heads = 2});
  for (const int64_t group_queries : {1, 3}) {
    problem.segments = {{.query_begin = tokens - 40,
                         .query_count = 40,
                         .key_begin = 0,
                         .first_position = tokens - 40}};
    RunForward(problem);
    AttentionProblem decode = problem;
    const int64_t first = tokens - group_queries;
    decode.segments = {{.query_begin = first,
                        .query_count = group_queries,
                        .key_begin = 0,
                        .first_position = first}};
    RunForward(decode);
    const auto last = [&](const TestTensor& tensor) {
      return tensor.View().Rows(first, group_queries);
    };
    EXPECT_LT(RelativeRmse(last(decode.out), last(problem.out)),
              RmseBound(DType::kFloat64, tokens));
    EXPECT_LT(MaxAbsDifference(last(decode.logsumexp), last(problem.logsumexp)), 1e-12);
  }
}

TEST(DenseAttentionTest, LogsumexpIsOptional) {
  AttentionProblem with = RandomAttention({.documents = {70}});
  AttentionProblem without = with;
  without.logsumexp = TestTensor();
  RunForward(with);
  RunForward(without);
  EXPECT_TRUE(BitwiseEqual(with.out.View(), without.out.View()));
}

}  // namespace
}  // namespace salamander
