// Dense attention as the models call it: by cuDNN where it serves, by block attention elsewhere.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/dense_attention.h"
#include "tests/gpu/long_attention.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

const AttentionOps<DenseAttentionForwardArgs, DenseAttentionBackwardArgs> kDense = {
    DenseAttentionForward, DenseAttentionBackward};

constexpr StreamPlace kPlace = {.scratch_bytes = int64_t{1} << 30};
constexpr StreamPlace kDeterministicPlace = {.scratch_bytes = int64_t{1} << 30,
                                             .options = kDeterministic};

// A key's gradient is added to something of its own size.
AttentionProblem MakeProblem(const AttentionCase& c) {
  return RoundedAttention(c, 1.0);
}

// The CPU's op in fp64, which tests/kernels holds to the slow twin.
AttentionProblem Twin(const AttentionProblem& problem) {
  const TestContext context;
  AttentionProblem twin = problem;
  EXPECT_TRUE(DenseAttentionForward(context, twin.Forward<DenseAttentionForwardArgs>()).ok());
  EXPECT_TRUE(DenseAttentionBackward(context, twin.Backward<DenseAttentionBackwardArgs>()).ok());
  return twin;
}

// Probabilities are rounded to bf16 before they meet the values, and the result is.
constexpr double kOutBound = 2 * kBFloat16Rounding;
// Rounded are out, which the row sums of the gradient stand on, the scores' gradient or the
// probabilities, the key gradient of each head, and the result.
constexpr double kGradientBound = 4 * kBFloat16Rounding;
// Scores are fp32 sums over the head, their exponentials come from the special function unit.
constexpr double kLogSumExpBound = 0x1p-18;

void ExpectClose(const AttentionProblem& actual, const AttentionProblem& expected,
                 double query_gradient_bound = kGradientBound) {
  double largest = 1.0;
  for (int64_t i = 0; i < expected.logsumexp.size(); ++i) {
    largest = std::max(largest, std::abs(expected.logsumexp.At(i)));
  }
  for (const Segment& s : expected.segments) {
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

void ExpectMatchesCpu(const AttentionProblem& problem, const StreamPlace& place = kPlace) {
  const AttentionProblem actual = kDense.Run(problem, place);
  ExpectClose(actual, Twin(problem));
  ExpectOtherRowsUntouched(problem, actual);
}

TEST(DenseAttentionGpuTest, OneDocumentMatchesTheCpuInFp64) {
  SKIP_WITHOUT_GPU();
  for (const int64_t length : {1, 127, 128, 129, 192, 1000, 1024, 1536}) {
    for (const int64_t head_dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << length << " tokens, head_dim " << head_dim);
      ExpectMatchesCpu(
          MakeProblem({.documents = {length}, .heads = 16, .key_heads = 1, .head_dim = head_dim}));
    }
  }
}

TEST(DenseAttentionGpuTest, HeadsOfAnyGroupingMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const AttentionCase& c :
       {AttentionCase{.documents = {300}, .heads = 32, .key_heads = 2, .head_dim = 128},
        AttentionCase{.documents = {300}, .heads = 3, .key_heads = 3, .head_dim = 64},
        AttentionCase{.documents = {300}, .heads = 6, .key_heads = 2, .head_dim = 128},
        AttentionCase{.documents = {300}, .heads = 4, .key_heads = 2, .head_dim = 32},
        AttentionCase{.documents = {300}, .heads = 4, .key_heads = 2, .head_dim = 96}}) {
    SCOPED_TRACE(testing::Message() << c.heads << " on " << c.key_heads << " of " << c.head_dim);
    ExpectMatchesCpu(MakeProblem(c));
  }
}

TEST(DenseAttentionGpuTest, PackedDocumentsOfAllLengthsMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const int64_t head_dim : {64, 128}) {
    SCOPED_TRACE(head_dim);
    ExpectMatchesCpu(MakeProblem({.documents = {1, 513, 129, 64, 130, 200, 777, 1, 128, 300},
                                  .heads = 8,
                                  .key_heads = 2,
                                  .head_dim = head_dim}));
  }
}

TEST(DenseAttentionGpuTest, HundredsOfDocumentsMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const int64_t length : {1, 128}) {
    SCOPED_TRACE(length);
    ExpectMatchesCpu(MakeProblem({.documents = std::vector<int64_t>(300, length),
                                  .heads = 4,
                                  .key_heads = 2,
                                  .head_dim = 64}));
  }
}

TEST(DenseAttentionGpuTest, RowsOfNaNBetweenDocumentsAreNeitherReadNorWritten) {
  SKIP_WITHOUT_GPU();
  for (const int64_t gap : {1, 70, 200}) {
    for (const int64_t head_dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << "gap " << gap << ", head_dim " << head_dim);
      ExpectMatchesCpu(MakeProblem({.documents = {130, 513, 5, 129, 192, 320},
                                    .heads = 8,
                                    .key_heads = 2,
                                    .head_dim = head_dim,
                                    .gap = gap}));
    }
  }
}

TEST(DenseAttentionGpuTest, LongStreamOffsetsMatchTheCpu) {
  const AttentionProblem problem = OffsetAttention();
  StreamPlace place = EndOfLongStream(problem);
  place.scratch_bytes = int64_t{24} << 30;  // cuDNN's sums are as long as the stream, in fp32
  SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place);
  ExpectGpuNear(kDense.Run(problem, place), Twin(problem));
}

TEST(DenseAttentionGpuTest, LongDocumentMatchesTwin) {
  const AttentionProblem problem = LongAttention(64);
  const StreamPlace place = LongAttentionPlace();
  SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place);
  ExpectLongAttention(kDense, problem, place, DenseStretch);
}

TEST(DenseAttentionGpuTest, QueriesBehindCachedKeysMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kCached = 333;
  for (const int64_t queries : {1, 150}) {
    SCOPED_TRACE(queries);
    AttentionProblem problem = MakeProblem({.documents = {kCached + queries, kCached + queries},
                                            .heads = 8,
                                            .key_heads = 2,
                                            .head_dim = 128});
    for (Segment& segment : problem.segments) {
      segment.query_begin += kCached;
      segment.query_count = queries;
      segment.first_position = kCached;
    }
    ExpectMatchesCpu(problem);
  }
}

// As a context-parallel rank has them: queries are a slice, keys are of the whole stream.
TEST(DenseAttentionGpuTest, SlicesReadTheKeysOfTheWholeStream) {
  SKIP_WITHOUT_GPU();
  for (const int64_t before : {1, 64, 333}) {
    SCOPED_TRACE(before);
    AttentionProblem problem =
        MakeProblem({.documents = {900}, .heads = 8, .key_heads = 2, .head_dim = 128});
    problem.segments = {
        {.query_begin = 0, .query_count = 150, .key_begin = 20, .first_position = before},
        {.query_begin = 150, .query_count = 1, .key_begin = before + 170},
        {.query_begin = 151, .query_count = 200, .key_begin = before + 171}};
    ExpectMatchesCpu(problem);
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
      AttentionProblem p =
          MakeProblem({.documents = documents, .heads = 4, .key_heads = 2, .head_dim = head_dim});
      const double offset = std::sqrt(200.0 / (p.scale * static_cast<double>(head_dim)));
      for (int64_t i = 0; i < p.q.size(); ++i) p.q.Set(i, kDeviation * p.q.At(i) + offset);
      for (int64_t i = 0; i < p.k.size(); ++i) p.k.Set(i, kDeviation * p.k.At(i) - offset);
      p.q = Rounded(p.q);
      p.k = Rounded(p.k);
      const AttentionProblem actual = kDense.Run(p, kPlace), expected = Twin(p);
      EXPECT_LT(expected.logsumexp.At(0), -100.0);
      // A query's scores have gradients of sum 0, in which the offset that all keys share cancels;
      // the rounding of those gradients meets the whole key.
      ExpectClose(actual, expected, kGradientBound * offset / kDeviation);
    }
  }
}

TEST(DenseAttentionGpuTest, LaterDocumentsAndEarlierTokensDoNotSeeAChange) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem before =
      MakeProblem({.documents = {200, 300, 140}, .heads = 4, .key_heads = 2, .head_dim = 128});
  AttentionProblem after = before;
  constexpr int64_t kChanged = 250;  // in the second document
  for (int64_t i = 0; i < 2 * 128; ++i) {
    after.k.Set(kChanged * 256 + i, 1.5);
    after.v.Set(kChanged * 256 + i, -1.5);
  }
  const AttentionProblem first = kDense.Run(before, kPlace), second = kDense.Run(after, kPlace);
  const auto equal = [&](int64_t begin, int64_t count) {
    return BitwiseEqual(second.out.View().Rows(begin, count), first.out.View().Rows(begin, count));
  };
  EXPECT_TRUE(equal(0, kChanged));
  EXPECT_FALSE(equal(kChanged, 1));
  EXPECT_FALSE(equal(499, 1));
  EXPECT_TRUE(equal(500, 140));
}

// The gradient of the queries is the one that may differ (kernels/dense_attention.h).
TEST(DenseAttentionGpuTest, OutputsAndKeyGradientsRepeatBitForBit) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem problem =
      MakeProblem({.documents = {700, 300, 40}, .heads = 8, .key_heads = 2, .head_dim = 128});
  const AttentionProblem first = kDense.Run(problem, kPlace), second = kDense.Run(problem, kPlace);
  for (TestTensor AttentionProblem::*result : {&AttentionProblem::out, &AttentionProblem::logsumexp,
                                               &AttentionProblem::dk, &AttentionProblem::dv}) {
    EXPECT_TRUE(BitwiseEqual((first.*result).View(), (second.*result).View()));
  }
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
        ExpectMatchesCpu(MakeProblem({.documents = documents,
                                      .heads = 8,
                                      .key_heads = 2,
                                      .head_dim = head_dim,
                                      .gap = gap}),
                         kDeterministicPlace);
      }
    }
  }
}

// Dozens of key tiles add to the gradient of each late query: cuDNN does so as they come.
TEST(DenseAttentionGpuTest, DeterministicGradientsRepeatBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const std::vector<int64_t>& documents : {std::vector<int64_t>{4096}, {40, 2500, 700}}) {
    SCOPED_TRACE(testing::PrintToString(documents));
    const AttentionProblem problem =
        MakeProblem({.documents = documents, .heads = 16, .key_heads = 1, .head_dim = 128});
    const AttentionProblem first = kDense.Run(problem, kDeterministicPlace);
    for (int repeat = 0; repeat < 3; ++repeat) {
      ExpectResultsBitwiseEqual(kDense.Run(problem, kDeterministicPlace), first);
    }
  }
}

TEST(DenseAttentionGpuTest, LogSumExpIsOptional) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem with =
      MakeProblem({.documents = {300, 20}, .heads = 8, .key_heads = 2, .head_dim = 128});
  AttentionProblem without = with;
  without.logsumexp = TestTensor();
  EXPECT_TRUE(
      BitwiseEqual(kDense.Run(with, kPlace).out.View(), kDense.Run(without, kPlace).out.View()));
}

TEST(DenseAttentionGpuTest, HeadTooWideIsRefusedWithTheLimit) {
  SKIP_WITHOUT_GPU();
  ExpectWideHeadRefused(kDense);
}

}  // namespace
}  // namespace salamander
