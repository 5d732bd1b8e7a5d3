#include "kernels/sparse_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/block_selection.h"
#include "tests/kernels/attention_problem.h"
#include "tests/reference/attention.h"
#include "tests/support/finite_difference.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

void RunForward(const AttentionProblem& problem) {
  TestContext context;
  ASSERT_TRUE(SparseAttentionForward(context, problem.Forward<SparseAttentionForwardArgs>()).ok());
}

void RunBoth(const AttentionProblem& problem) {
  RunForward(problem);
  TestContext context;
  ASSERT_TRUE(
      SparseAttentionBackward(context, problem.Backward<SparseAttentionBackwardArgs>()).ok());
}

void RunDense(const AttentionProblem& problem) {
  TestContext context;
  ASSERT_TRUE(DenseAttentionForward(context, problem.Forward<DenseAttentionForwardArgs>()).ok());
  ASSERT_TRUE(DenseAttentionBackward(context, problem.Backward<DenseAttentionBackwardArgs>()).ok());
}

AttentionProblem Twin(const AttentionProblem& problem) {
  AttentionProblem twin = problem.As(DType::kFloat64);
  reference::SparseAttentionForward(twin.Forward<SparseAttentionForwardArgs>());
  reference::SparseAttentionBackward(twin.Backward<SparseAttentionBackwardArgs>());
  return twin;
}

// Says whether a query at `position` reads a block that lies before its own.
using Choice = std::function<bool(int64_t position, int64_t key_head, int64_t block)>;

// Lists of the chosen blocks and every query's own, of at most `length`. Rows outside the segments
// hold the lowest integer.
void SetLists(AttentionProblem& problem, int64_t block_size, int64_t length, const Choice& choice) {
  problem.block_size = block_size;
  problem.blocks =
      TestTensor::Poisoned(DType::kInt32, {problem.rows(), problem.key_heads(), length});
  for (const Segment& segment : problem.segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) {
      for (int64_t key_head = 0; key_head < problem.key_heads(); ++key_head) {
        const int64_t position = segment.first_position + i;
        std::vector<int64_t> list;
        for (int64_t block = 0; block < position / block_size; ++block) {
          if (static_cast<int64_t>(list.size()) + 1 < length && choice(position, key_head, block)) {
            list.push_back(block);
          }
        }
        list.push_back(position / block_size);
        list.resize(static_cast<size_t>(length), -1);
        for (int64_t n = 0; n < length; ++n) {
          const int64_t row = (segment.query_begin + i) * problem.key_heads() + key_head;
          problem.blocks.Set(row * length + n, static_cast<double>(list[static_cast<size_t>(n)]));
        }
      }
    }
  }
}

Choice RandomChoice(double probability, uint64_t seed) {
  return [probability, seed](int64_t position, int64_t key_head, int64_t block) {
    SplitMix random(seed + static_cast<uint64_t>((position * 64 + key_head) * 4096 + block));
    return random.Uniform() < probability;
  };
}

const Choice kEveryBlock = [](int64_t, int64_t, int64_t) { return true; };

struct ShapeCase {
  std::string name;
  AttentionCase shape;
  int64_t block_size = 64;
  double probability = 0.5;
};

void PrintTo(const ShapeCase& shape, std::ostream* stream) {
  *stream << shape.name;
}

class SparseAttentionShapeTest : public testing::TestWithParam<ShapeCase> {};

TEST_P(SparseAttentionShapeTest, MatchesTwinInBothPrecisions) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    AttentionCase shape = GetParam().shape;
    shape.dtype = dtype;
    AttentionProblem problem = RandomAttention(shape);
    SetLists(problem, GetParam().block_size, 12, RandomChoice(GetParam().probability, 3));
    const AttentionProblem twin = Twin(problem);
    RunBoth(problem);
    const int64_t longest = *std::max_element(shape.documents.begin(), shape.documents.end());
    const int64_t group = shape.heads / shape.key_heads;
    ExpectResultsNear(problem, twin, RmseBound(dtype, longest * group + shape.head_dim));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SparseAttentionShapeTest,
    testing::Values(
        ShapeCase{"OneToken", {.documents = {1}}},
        ShapeCase{"HeadDim8",
                  {.documents = {300, 1, 65}, .heads = 4, .key_heads = 4, .head_dim = 8}},
        ShapeCase{"HeadDim32",
                  {.documents = {129, 260}, .heads = 4, .key_heads = 2, .head_dim = 32}},
        ShapeCase{"HeadDim64", {.documents = {1, 310}, .heads = 4, .key_heads = 1, .head_dim = 64}},
        ShapeCase{"HeadDim128", {.documents = {270}, .heads = 16, .key_heads = 1, .head_dim = 128}},
        ShapeCase{"SmallBlocks", {.documents = {90, 41}, .heads = 6, .key_heads = 2}, 8},
        ShapeCase{"LargeBlocks", {.documents = {700}, .heads = 2, .key_heads = 1}, 300},
        ShapeCase{"FewShared", {.documents = {600}, .heads = 4, .key_heads = 2}, 16, 0.05},
        ShapeCase{"HundredsOfOneTokenDocuments", {.documents = std::vector<int64_t>(300, 1)}}),
    [](const testing::TestParamInfo<ShapeCase>& test) { return test.param.name; });

TEST(SparseAttentionBackwardTest, MatchesFiniteDifferences) {
  for (const int64_t key_heads : {4, 2, 1}) {
    AttentionProblem problem = RandomAttention(
        {.documents = {5, 1, 67}, .heads = 4, .key_heads = key_heads, .head_dim = 8});
    SetLists(problem, 8, 5, RandomChoice(0.5, 7));
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

TEST(SparseAttentionTest, FullListsEqualDenseAttentionBitwise) {
  for (const int64_t tokens : {1, 64, 65, 127, 700}) {
    AttentionProblem sparse = RandomAttention({.documents = {tokens, 33},
                                               .heads = 4,
                                               .key_heads = 2,
                                               .head_dim = 32,
                                               .dtype = DType::kFloat32});
    AttentionProblem dense = sparse;
    SetLists(sparse, 64, 96, kEveryBlock);
    RunBoth(sparse);
    RunDense(dense);
    ExpectResultsBitwiseEqual(sparse, dense);
  }
}

TEST(SparseAttentionTest, SelectionOfAShortStreamEqualsDenseAttention) {
  AttentionProblem sparse = RandomAttention(
      {.documents = {900}, .heads = 4, .key_heads = 2, .head_dim = 32, .dtype = DType::kFloat32});
  AttentionProblem dense = sparse;
  const BlockSelectionShape shape;
  const auto pooled = [&](int64_t rows) { return TestTensor(DType::kFloat32, {rows, 2, 32}); };
  const TestTensor fine = pooled(FineKeyRows(900, shape));
  const TestTensor coarse = pooled(CoarseKeyRows(900, shape));
  sparse.blocks = TestTensor::Poisoned(DType::kInt32, {900, 2, shape.selected_blocks});
  TestContext context;
  ASSERT_TRUE(PoolKeys(context, {.k = sparse.k.View(),
                                 .segments = sparse.segments,
                                 .shape = shape,
                                 .fine_keys = fine.View(),
                                 .coarse_keys = coarse.View()})
                  .ok());
  ASSERT_TRUE(SelectBlocks(context, {.q = sparse.q.View(),
                                     .fine_keys = fine.View(),
                                     .coarse_keys = coarse.View(),
                                     .segments = sparse.segments,
                                     .shape = shape,
                                     .scale = sparse.scale,
                                     .blocks = sparse.blocks.View()})
                  .ok());
  RunBoth(sparse);
  RunDense(dense);
  ExpectResultsBitwiseEqual(sparse, dense);
}

TEST(SparseAttentionTest, NeighboursWithoutACommonBlockMatchTwin) {
  AttentionProblem problem = RandomAttention({.documents = {400}, .heads = 4, .key_heads = 2});
  SetLists(problem, 16, 12,
           [](int64_t position, int64_t, int64_t block) { return block % 8 == position % 8; });
  const AttentionProblem twin = Twin(problem);
  RunBoth(problem);
  ExpectResultsNear(problem, twin, RmseBound(DType::kFloat64, 800));
}

TEST(SparseAttentionTest, ABlockThatAllChooseMatchesTwin) {
  AttentionProblem problem = RandomAttention({.documents = {800}, .heads = 4, .key_heads = 1});
  SetLists(problem, 16, 2, [](int64_t, int64_t, int64_t block) { return block == 1; });
  const AttentionProblem twin = Twin(problem);
  RunBoth(problem);
  ExpectResultsNear(problem, twin, RmseBound(DType::kFloat64, 3200));
}

TEST(SparseAttentionBackwardTest, BlocksThatNoneChoosesGetExactlyNoGradient) {
  AttentionProblem problem = RandomAttention({.documents = {700}});
  SetLists(problem, 64, 4, [](int64_t, int64_t, int64_t block) { return block == 0; });
  // Queries of the second KV head's third block look elsewhere too: its own block alone is left.
  TestTensor& blocks = problem.blocks;
  for (int64_t row = 128; row < 192; ++row) {
    blocks.Set((row * 2 + 1) * 4 + 0, 0);
    blocks.Set((row * 2 + 1) * 4 + 1, -1);
  }
  RunBoth(problem);
  bool others_have_gradient = true;
  for (int64_t row = 0; row < 700; ++row) {
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t index = (row * 2 + 1) * 16 + i;
      if (row >= 128 && row < 192) {
        ASSERT_EQ(problem.dk.At(index), 0.0);
        ASSERT_EQ(problem.dv.At(index), 0.0);
      } else {
        others_have_gradient = others_have_gradient && problem.dv.At(index) != 0.0;
      }
    }
  }
  EXPECT_TRUE(others_have_gradient);
}

TEST(SparseAttentionTest, LaterDocumentsIgnoreEarlierTokens) {
  AttentionProblem before = RandomAttention({.documents = {170, 1, 333}, .dtype = DType::kFloat32});
  SetLists(before, 16, 6, RandomChoice(0.4, 5));
  AttentionProblem after = before;
  for (TestTensor* tensor : {&after.q, &after.k, &after.v, &after.d_out}) {
    tensor->Set(3 * 2 * 16, 5.0);
  }
  RunBoth(before);
  RunBoth(after);
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    const TensorView a = (before.*result).View(), b = (after.*result).View();
    EXPECT_FALSE(BitwiseEqual(a.Rows(0, 170), b.Rows(0, 170)));
    EXPECT_TRUE(BitwiseEqual(a.Rows(170, 334), b.Rows(170, 334)));
  }
}

TEST(SparseAttentionTest, RowsOutsideSegmentsAreNeitherReadNorWritten) {
  AttentionProblem packed = RandomAttention({.documents = {100, 1, 130}, .gap = 3});
  SetLists(packed, 16, 6, RandomChoice(0.4, 5));
  RunBoth(packed);
  for (const Segment& segment : packed.segments) {
    AttentionProblem alone = packed;
    for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
      TestTensor& tensor = alone.*result;
      for (int64_t i = 0; i < tensor.size(); ++i) tensor.Set(i, 0.0);
    }
    alone.segments = {segment};
    RunBoth(alone);
    for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
      const TensorView own = (alone.*result).View();
      EXPECT_TRUE(
          BitwiseEqual(own.Rows(segment.query_begin, segment.query_count),
                       (packed.*result).View().Rows(segment.query_begin, segment.query_count)));
      for (int64_t i = 0; i < own.size(); ++i) {
        const int64_t row = i / own.row_size() - segment.query_begin;
        const bool is_named = row >= 0 && row < segment.query_count;
        ASSERT_TRUE(is_named ? std::isfinite(ElementAt(own, i)) : ElementAt(own, i) == 0.0);
      }
    }
  }
}

TEST(SparseAttentionTest, ResultsDoNotDependOnThreadsOrRun) {
  AttentionProblem one = RandomAttention({.documents = {1200, 1, 90},
                                          .heads = 4,
                                          .key_heads = 2,
                                          .head_dim = 32,
                                          .dtype = DType::kFloat32});
  SetLists(one, 32, 9, RandomChoice(0.3, 5));
  AttentionProblem two = one, five = one, repeat = one;
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

TEST(SparseAttentionTest, LargeLogitsStayFiniteAndRight) {
  AttentionProblem problem =
      RandomAttention({.documents = {300}, .deviation = 8.0, .dtype = DType::kFloat32});
  SetLists(problem, 16, 6, RandomChoice(0.4, 5));
  const AttentionProblem twin = Twin(problem);
  RunBoth(problem);
  for (int64_t i = 0; i < problem.out.size(); ++i) {
    ASSERT_TRUE(std::isfinite(problem.out.At(i)) && std::isfinite(problem.dk.At(i)));
    // A logit of 250 carries an absolute error of about 250 * 16 * 2^-24, which exp passes on.
    ASSERT_NEAR(problem.out.At(i), twin.out.At(i), 2e-3);
  }
}

TEST(SparseAttentionTest, ChunkedPrefillAndDecodingEqualWhole) {
  AttentionProblem whole =
      RandomAttention({.documents = {331}, .heads = 4, .key_heads = 2, .head_dim = 32});
  SetLists(whole, 16, 7, RandomChoice(0.4, 5));
  const AttentionProblem untouched = whole;
  RunBoth(whole);
  for (const int64_t chunk : {100, 1}) {
    AttentionProblem chunked = untouched;
    for (int64_t first = 0; first < 331; first += chunk) {
      const int64_t count = std::min<int64_t>(chunk, 331 - first);
      chunked.segments = {
          {.query_begin = first, .query_count = count, .key_begin = 0, .first_position = first}};
      RunBoth(chunked);
    }
    ExpectResultsNear(chunked, whole, RmseBound(DType::kFloat64, 662));
  }
}

}  // namespace
}  // namespace salamander
