#include "kernels/block_selection.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/reference/block_selection.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

using testing::ElementsAre;

constexpr double kSentinel = 7.0;

// Small enough that selection sets in after six blocks.
constexpr BlockSelectionShape kSmallShape = {.kernel_size = 8,
                                             .kernel_stride = 4,
                                             .block_size = 16,
                                             .init_blocks = 1,
                                             .local_blocks = 2,
                                             .selected_blocks = 6};

struct Problem {
  std::vector<Segment> segments;
  BlockSelectionShape shape;
  double scale = 1.0;
  TestTensor q, k, fine_keys, coarse_keys, blocks;

  int64_t key_heads() const { return k.View().dim(1); }
  std::vector<int32_t> List(int64_t row, int64_t key_head) const {
    const int32_t* list =
        blocks.View().data<int32_t>() + (row * key_heads() + key_head) * shape.selected_blocks;
    std::vector<int32_t> taken(list, list + shape.selected_blocks);
    while (!taken.empty() && taken.back() == -1) taken.pop_back();
    return taken;
  }
};

struct ProblemCase {
  std::vector<int64_t> documents;
  BlockSelectionShape shape = kSmallShape;
  int64_t heads = 2, key_heads = 1, head_dim = 8;
  int64_t gap = 0;  // NaN rows between documents
  DType dtype = DType::kFloat64;
};

Problem RandomProblem(const ProblemCase& c) {
  Problem problem;
  int64_t rows = c.gap;
  for (const int64_t length : c.documents) {
    problem.segments.push_back(
        {.query_begin = rows, .query_count = length, .key_begin = rows, .first_position = 0});
    rows += length + c.gap;
  }
  problem.shape = c.shape;
  problem.scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  problem.q = TestTensor::Normal(c.dtype, {rows, c.heads, c.head_dim}, 1, 2.0);
  problem.k = TestTensor::Normal(c.dtype, {rows, c.key_heads, c.head_dim}, 2, 2.0);
  for (int64_t gap = 0, d = 0; c.gap > 0 && gap < rows; ++d) {
    problem.q.PoisonRows(gap, c.gap);
    problem.k.PoisonRows(gap, c.gap);
    if (d == static_cast<int64_t>(c.documents.size())) break;
    gap += c.gap + c.documents[static_cast<size_t>(d)];
  }
  problem.fine_keys = TestTensor::Constant(
      c.dtype, {FineKeyRows(rows, c.shape), c.key_heads, c.head_dim}, kSentinel);
  problem.coarse_keys = TestTensor::Constant(
      c.dtype, {CoarseKeyRows(rows, c.shape), c.key_heads, c.head_dim}, kSentinel);
  problem.blocks =
      TestTensor::Poisoned(DType::kInt32, {rows, c.key_heads, c.shape.selected_blocks});
  return problem;
}

void Pool(const Problem& problem, bool only_new = false) {
  TestContext context;
  ASSERT_TRUE(PoolKeys(context, {.k = problem.k.View(),
                                 .segments = problem.segments,
                                 .shape = problem.shape,
                                 .only_new = only_new,
                                 .fine_keys = problem.fine_keys.View(),
                                 .coarse_keys = problem.coarse_keys.View()})
                  .ok());
}

void Select(const Problem& problem) {
  TestContext context;
  ASSERT_TRUE(SelectBlocks(context, {.q = problem.q.View(),
                                     .fine_keys = problem.fine_keys.View(),
                                     .coarse_keys = problem.coarse_keys.View(),
                                     .segments = problem.segments,
                                     .shape = problem.shape,
                                     .scale = problem.scale,
                                     .blocks = problem.blocks.View()})
                  .ok());
}

// Every list against the twin's. Lists may differ only in blocks whose score is within
// `relative_gap` of the score at the cut.
void ExpectTwinLists(const Problem& problem, double relative_gap = 0.0) {
  const TestTensor q = problem.q.As(DType::kFloat64), k = problem.k.As(DType::kFloat64);
  const reference::SelectionProblem twin = {.q = q.View(),
                                            .k = k.View(),
                                            .segments = problem.segments,
                                            .shape = problem.shape,
                                            .scale = problem.scale};
  for (const Segment& segment : problem.segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) {
      for (int64_t key_head = 0; key_head < problem.key_heads(); ++key_head) {
        const std::vector<double> scores =
            reference::BlockScores(twin, segment, segment.first_position + i, key_head);
        const std::vector<int32_t> expected =
            reference::BestBlocks(scores, problem.shape.selected_blocks);
        const std::vector<int32_t> actual = problem.List(segment.query_begin + i, key_head);
        ASSERT_EQ(actual.size(), expected.size());
        if (actual == expected) continue;
        ASSERT_GT(relative_gap, 0.0) << "query " << i << " of " << segment.query_count;
        std::vector<int32_t> differing;
        std::set_symmetric_difference(actual.begin(), actual.end(), expected.begin(),
                                      expected.end(), std::back_inserter(differing));
        double cut = std::numeric_limits<double>::infinity();
        for (const int32_t block : expected)
          cut = std::min(cut, scores[static_cast<size_t>(block)]);
        for (const int32_t block : differing) {
          ASSERT_NEAR(scores[static_cast<size_t>(block)], cut, relative_gap * cut);
        }
      }
    }
  }
}

TEST(PoolKeysTest, RowsHoldMeansOfWholeWindowsAndNothingElseIsWritten) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const Problem problem = RandomProblem(
        {.documents = {100, 1, 7, 8, 33, 64}, .key_heads = 2, .gap = 3, .dtype = dtype});
    Pool(problem);
    const TestTensor k = problem.k.As(DType::kFloat64);
    TestTensor fine = problem.fine_keys, coarse = problem.coarse_keys;
    for (const bool is_coarse : {false, true}) {
      const int64_t size = is_coarse ? 32 : 8, stride = is_coarse ? 16 : 4;
      TestTensor pooled = is_coarse ? coarse : fine;
      for (const Segment& segment : problem.segments) {
        for (int64_t j = 0; j * stride + size <= segment.query_count; ++j) {
          for (int64_t head = 0; head < 2; ++head) {
            const std::vector<double> mean =
                reference::MeanKey(k.View(), head, segment.key_begin + j * stride, size);
            const int64_t row = segment.key_begin / stride + j;
            for (int64_t d = 0; d < 8; ++d) {
              const int64_t index = (row * 2 + head) * 8 + d;
              // Sums of `size` terms of order 2.
              const double unit = dtype == DType::kFloat32 ? 0x1p-24 : 0x1p-53;
              ASSERT_NEAR(pooled.At(index), mean[static_cast<size_t>(d)],
                          8.0 * static_cast<double>(size) * unit);
              pooled.Set(index, kSentinel);
            }
          }
        }
      }
      for (int64_t i = 0; i < pooled.size(); ++i) ASSERT_EQ(pooled.At(i), kSentinel);
    }
  }
}

TEST(PoolKeysTest, OnlyNewPoolsTheWindowsThatEndInTheCall) {
  const Problem whole = RandomProblem({.documents = {200}});
  Pool(whole);
  Problem chunked = RandomProblem({.documents = {200}});
  int64_t first = 0;
  for (const int64_t count : {1, 6, 1, 23, 1, 1, 60, 35, 72}) {
    chunked.segments = {{.query_begin = first, .query_count = count, .first_position = first}};
    const TestTensor before = chunked.fine_keys;
    Pool(chunked, true);
    // Windows that ended before the call stay as they were.
    const int64_t old_windows = first < 8 ? 0 : (first - 8) / 4 + 1;
    EXPECT_TRUE(BitwiseEqual(chunked.fine_keys.View().Rows(0, old_windows),
                             before.View().Rows(0, old_windows)));
    first += count;
  }
  EXPECT_TRUE(BitwiseEqual(chunked.fine_keys.View(), whole.fine_keys.View()));
  EXPECT_TRUE(BitwiseEqual(chunked.coarse_keys.View(), whole.coarse_keys.View()));

  // A window that had ended is not pooled again.
  chunked.k.Set(0, 100.0);
  chunked.segments = {{.query_begin = 199, .query_count = 1, .first_position = 199}};
  Pool(chunked, true);
  EXPECT_TRUE(BitwiseEqual(chunked.fine_keys.View(), whole.fine_keys.View()));
}

TEST(SelectBlocksTest, MatchesTwinOnRaggedDocumentsForEveryGroup) {
  for (const int64_t key_heads : {16, 8, 4, 1}) {
    const Problem problem = RandomProblem(
        {.documents = {1, 200, 97, 15, 131}, .heads = 16, .key_heads = key_heads, .gap = 5});
    Pool(problem);
    Select(problem);
    ExpectTwinLists(problem);
  }
}

TEST(SelectBlocksTest, MatchesTwinAroundTheSelectionLimit) {
  for (const int64_t blocks : {95, 96, 97}) {
    for (const int64_t rest : {0, 1, 15, 63}) {
      const int64_t length = rest == 0 ? blocks * 64 : (blocks - 1) * 64 + rest;
      Problem problem = RandomProblem(
          {.documents = {length}, .shape = BlockSelectionShape{}, .heads = 2, .head_dim = 8});
      Pool(problem);
      const int64_t queries = 70;
      problem.segments = {{.query_begin = length - queries,
                           .query_count = queries,
                           .first_position = length - queries}};
      Select(problem);
      ExpectTwinLists(problem);
    }
  }
}

TEST(SelectBlocksTest, Float32ListsDifferOnlyAtNearTies) {
  const Problem problem = RandomProblem({.documents = {333, 190},
                                         .heads = 8,
                                         .key_heads = 2,
                                         .head_dim = 64,
                                         .dtype = DType::kFloat32});
  Pool(problem);
  Select(problem);
  // Logits are of order 10 and carry about sqrt(64) roundings each.
  ExpectTwinLists(problem, 10 * 8 * 8 * 0x1p-24);
}

TEST(SelectBlocksTest, EqualKeysTakeTheLowestBlocks) {
  Problem problem = RandomProblem({.documents = {200}, .dtype = DType::kFloat32});
  for (int64_t i = 0; i < problem.k.size(); ++i) problem.k.Set(i, 0.5);
  Pool(problem);
  Select(problem);
  // Block 0 is forced, so are 10, 11 and the current 12.
  EXPECT_THAT(problem.List(199, 0), ElementsAre(0, 1, 2, 10, 11, 12));
}

TEST(SelectBlocksTest, ScoresAreZeroWhereNoCoarseKeyIsVisible) {
  BlockSelectionShape shape = {.kernel_size = 32,
                               .kernel_stride = 16,
                               .block_size = 8,
                               .init_blocks = 1,
                               .local_blocks = 1,
                               .selected_blocks = 5};
  const Problem problem = RandomProblem({.documents = {160}, .shape = shape});
  Pool(problem);
  Select(problem);
  EXPECT_THAT(problem.List(126, 0), ElementsAre(0, 1, 2, 14, 15));
  ExpectTwinLists(problem);
}

TEST(SelectBlocksTest, BlocksWithNaNAreReadByAllWhoSeeThem) {
  Problem problem = RandomProblem({.documents = {300}, .dtype = DType::kFloat32});
  problem.k.PoisonRows(5 * 16 + 7, 1);
  Pool(problem);
  Select(problem);
  // From position 128 on block 5 is no local one. Its windows overlap no other block.
  for (int64_t row = 128; row < 300; ++row) {
    EXPECT_THAT(problem.List(row, 0), testing::Contains(5)) << row;
  }
}

TEST(SelectBlocksTest, AllBlocksAreListedUpToTheLimit) {
  const Problem problem = RandomProblem({.documents = {130}});
  Pool(problem);
  Select(problem);
  EXPECT_THAT(problem.List(0, 0), ElementsAre(0));
  EXPECT_THAT(problem.List(95, 0), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(problem.List(96, 0).size(), 6u);
}

TEST(SelectBlocksTest, LargeLogitsKeepListsWellFormed) {
  Problem problem = RandomProblem({.documents = {300}, .dtype = DType::kFloat32});
  for (int64_t i = 0; i < problem.q.size(); ++i) problem.q.Set(i, 100 * problem.q.At(i));
  Pool(problem);
  Select(problem);
  for (int64_t row = 96; row < 300; ++row) {
    const std::vector<int32_t> list = problem.List(row, 0);
    ASSERT_EQ(list.size(), 6u);
    ASSERT_TRUE(std::adjacent_find(list.begin(), list.end(), std::greater_equal<>()) == list.end());
    ASSERT_EQ(list.front(), 0);
    ASSERT_EQ(list.back(), row / 16);
    ASSERT_EQ(list[3], row / 16 - 2);
  }
}

TEST(SelectBlocksTest, LaterDocumentsIgnoreEarlierTokens) {
  const Problem before =
      RandomProblem({.documents = {150, 1, 180}, .gap = 2, .dtype = DType::kFloat32});
  Problem after = before;
  for (int64_t row = 2; row < 152; ++row) {  // all of document 0
    for (int64_t i = 0; i < 8; ++i) {
      after.k.Set(row * 8 + i, -after.k.At(row * 8 + i));
    }
  }
  Pool(before);
  Select(before);
  Pool(after);
  Select(after);
  const auto rows = [](const Problem& problem, int64_t begin, int64_t count) {
    return problem.blocks.View().Rows(begin, count);
  };
  EXPECT_FALSE(BitwiseEqual(rows(after, 0, 152), rows(before, 0, 152)));
  EXPECT_TRUE(BitwiseEqual(rows(after, 152, 185), rows(before, 152, 185)));
}

TEST(SelectBlocksTest, ChunksDecodingAndThreadsGiveTheSameLists) {
  const ProblemCase c = {
      .documents = {331}, .heads = 4, .key_heads = 2, .head_dim = 32, .dtype = DType::kFloat32};
  const Problem whole = RandomProblem(c);
  {
    ScopedThreadCount threads(1);
    Pool(whole);
    Select(whole);
  }
  ScopedThreadCount threads(2);
  for (const int64_t chunk : {331, 64, 50, 1}) {
    Problem chunked = RandomProblem(c);
    for (int64_t first = 0; first < 331; first += chunk) {
      const int64_t count = std::min<int64_t>(chunk, 331 - first);
      chunked.segments = {{.query_begin = first, .query_count = count, .first_position = first}};
      Pool(chunked, true);
      Select(chunked);
    }
    EXPECT_TRUE(BitwiseEqual(chunked.blocks.View(), whole.blocks.View())) << chunk;
  }
}

}  // namespace
}  // namespace salamander
