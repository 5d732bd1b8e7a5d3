#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/block_selection.h"
#include "tests/gpu/long_stream.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

using testing::ElementsAre;

// Small enough that selection sets in after six blocks.
constexpr BlockSelectionShape kSmallShape = {.kernel_size = 8,
                                             .kernel_stride = 4,
                                             .block_size = 16,
                                             .init_blocks = 1,
                                             .local_blocks = 2,
                                             .selected_blocks = 6};

struct ProblemCase {
  std::vector<int64_t> documents;
  BlockSelectionShape shape = kSmallShape;
  int64_t heads = 2, key_heads = 1, head_dim = 16;
  int64_t gap = 0;  // NaN rows between documents
};

// Heads and groups that Hopper has kernels of its own for, beside others.
struct Heads {
  int64_t heads, key_heads, head_dim;
};
constexpr Heads kSmallHeads[] = {{4, 2, 32}, {16, 1, 64}, {32, 2, 128}};

// Inputs are fp64 and hold what the device sees of them; pooled keys and lists come from it.
struct Problem {
  std::vector<Segment> segments;
  BlockSelectionShape shape;
  double scale = 1.0;
  TestTensor q, k, fine_keys, coarse_keys, blocks;

  int64_t rows() const { return k.View().dim(0); }
  int64_t key_heads() const { return k.View().dim(1); }
  std::vector<int32_t> List(const TestTensor& lists, int64_t row, int64_t key_head) const {
    std::vector<int32_t> taken;
    for (int64_t n = 0; n < shape.selected_blocks; ++n) {
      const int64_t place = (row * key_heads() + key_head) * shape.selected_blocks + n;
      taken.push_back(static_cast<int32_t>(lists.At(place)));
    }
    while (!taken.empty() && taken.back() == -1) taken.pop_back();
    return taken;
  }
  std::vector<int32_t> List(int64_t row, int64_t key_head) const {
    return List(blocks, row, key_head);
  }
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
  problem.q = Rounded(TestTensor::Normal(DType::kFloat64, {rows, c.heads, c.head_dim}, 1, 2.0));
  problem.k = Rounded(TestTensor::Normal(DType::kFloat64, {rows, c.key_heads, c.head_dim}, 2, 2.0));
  for (int64_t gap = 0, d = 0; c.gap > 0 && gap < rows; ++d) {
    problem.q.PoisonRows(gap, c.gap);
    problem.k.PoisonRows(gap, c.gap);
    if (d == static_cast<int64_t>(c.documents.size())) break;
    gap += c.gap + c.documents[static_cast<size_t>(d)];
  }
  return problem;
}

// What the device has for a problem, and rows in front of it. Whole strides of coarse windows fit
// into these, so that pooled keys keep their places among the problem's.
struct Memory {
  int64_t tensor_bytes = int64_t{256} << 20, scratch_bytes = int64_t{64} << 20;
  int64_t rows_before = 0;
};

// Pools the keys of `pooled_segments` (all rows from 0 on where they are those of the problem) and
// selects for the queries of the problem's segments.
void PoolAndSelect(Problem& problem, const std::vector<Segment>& pooled_segments,
                   const Memory& memory = {}) {
  GpuContext gpu(memory.tensor_bytes, memory.scratch_bytes);
  const int64_t before = memory.rows_before, rows = before + problem.rows(),
                key_heads = problem.key_heads(), dim = problem.k.View().dim(2);
  const TensorView fine =
      gpu.Poisoned(DType::kBFloat16, {FineKeyRows(rows, problem.shape), key_heads, dim});
  const TensorView coarse =
      gpu.Poisoned(DType::kBFloat16, {CoarseKeyRows(rows, problem.shape), key_heads, dim});
  const TensorView blocks =
      gpu.Poisoned(DType::kInt32, {rows, key_heads, problem.shape.selected_blocks});
  ASSERT_TRUE(PoolKeys(gpu, {.k = UploadBehind(gpu, before, problem.k),
                             .segments = Behind(before, pooled_segments),
                             .shape = problem.shape,
                             .fine_keys = fine,
                             .coarse_keys = coarse})
                  .ok());
  ASSERT_TRUE(SelectBlocks(gpu, {.q = UploadBehind(gpu, before, problem.q),
                                 .fine_keys = fine,
                                 .coarse_keys = coarse,
                                 .segments = Behind(before, problem.segments),
                                 .shape = problem.shape,
                                 .scale = problem.scale,
                                 .blocks = blocks})
                  .ok());
  ASSERT_TRUE(gpu.Wait().ok());
  const auto behind = [&](const TensorView& tensor, int64_t stride) {
    const int64_t others = before / stride;
    return gpu.Download(tensor.Rows(others, tensor.dim(0) - others));
  };
  problem.fine_keys = behind(fine, problem.shape.kernel_stride).As(DType::kFloat64);
  problem.coarse_keys = behind(coarse, 4 * problem.shape.kernel_stride).As(DType::kFloat64);
  problem.blocks = behind(blocks, 1);
}

void PoolAndSelect(Problem& problem) {
  PoolAndSelect(problem, problem.segments);
}

// Scores of blocks 0 .. current, one window at a time, from the pooled keys that the device made.
std::vector<double> BlockScores(const Problem& problem, const Segment& segment, int64_t i,
                                int64_t key_head) {
  const BlockSelectionShape& shape = problem.shape;
  const int64_t dim = problem.q.View().dim(2), heads = problem.q.View().dim(1);
  const int64_t group = heads / problem.key_heads(), position = segment.first_position + i;
  const auto logit = [&](const TestTensor& pooled, int64_t row, int64_t head) {
    const double* q =
        problem.q.View().data<double>() + ((segment.query_begin + i) * heads + head) * dim;
    const double* key = pooled.View().data<double>() + (row * problem.key_heads() + key_head) * dim;
    double sum = 0;
    for (int64_t d = 0; d < dim; ++d) sum += q[d] * key[d];
    return problem.scale * sum;
  };
  std::vector<double> windows;
  for (int64_t first = 0; first + shape.kernel_size - 1 <= position; first += shape.kernel_stride) {
    windows.push_back(0.0);
  }
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    double coarse = 0;
    for (int64_t c = 0; 4 * (c * shape.kernel_stride + shape.kernel_size) - 1 <= position; ++c) {
      coarse += std::exp(
          logit(problem.coarse_keys, segment.key_begin / (4 * shape.kernel_stride) + c, head));
    }
    if (coarse == 0) continue;
    for (size_t j = 0; j < windows.size(); ++j) {
      const int64_t row = segment.key_begin / shape.kernel_stride + static_cast<int64_t>(j);
      windows[j] += std::exp(logit(problem.fine_keys, row, head)) / coarse;
    }
  }
  std::vector<double> scores(static_cast<size_t>(position / shape.block_size + 1));
  for (size_t j = 0; j < windows.size(); ++j) {
    const int64_t first = static_cast<int64_t>(j) * shape.kernel_stride;
    const int64_t last = first + shape.kernel_size - 1;
    for (int64_t block = first / shape.block_size; block <= last / shape.block_size; ++block) {
      if (block >= static_cast<int64_t>(scores.size())) break;
      scores[static_cast<size_t>(block)] = std::max(scores[static_cast<size_t>(block)], windows[j]);
    }
  }
  return scores;
}

double LargestNorm(const TestTensor& tensor) {
  const int64_t dim = tensor.View().dim(2);
  double largest = 0;
  for (int64_t i = 0; i < tensor.size(); i += dim) {
    double squares = 0;
    for (int64_t d = 0; d < dim; ++d) squares += tensor.At(i + d) * tensor.At(i + d);
    largest = std::max(largest, squares);  // NaN rows do not count
  }
  return std::sqrt(largest);
}

// Every list against the CPU's in fp64 from the same pooled keys. Where they differ, the score of
// every differing block lies at the cut, as far as fp32 can tell: products of bf16 are exact, a sum
// of them carries a few roundings of the sum of magnitudes, at most |q| |k|; the normaliser carries
// as much again, and the exponential 2^-22 of its own. Of a sum of exponentials this is a relative
// error.
void ExpectCpuLists(const Problem& problem) {
  TestTensor expected = TestTensor::Poisoned(
      DType::kInt32, {problem.rows(), problem.key_heads(), problem.shape.selected_blocks});
  TestContext context;
  ASSERT_TRUE(SelectBlocks(context, {.q = problem.q.View(),
                                     .fine_keys = problem.fine_keys.View(),
                                     .coarse_keys = problem.coarse_keys.View(),
                                     .segments = problem.segments,
                                     .shape = problem.shape,
                                     .scale = problem.scale,
                                     .blocks = expected.View()})
                  .ok());
  const double largest_logit =
      problem.scale * LargestNorm(problem.q) * LargestNorm(problem.fine_keys);
  const double relative_gap = 2 * 8 * largest_logit * 0x1p-24 + 0x1p-20;
  int64_t lists = 0, differing_lists = 0;
  for (const Segment& segment : problem.segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) {
      for (int64_t key_head = 0; key_head < problem.key_heads(); ++key_head) {
        const int64_t row = segment.query_begin + i;
        const std::vector<int32_t> gpu = problem.List(row, key_head);
        const std::vector<int32_t> cpu = problem.List(expected, row, key_head);
        ++lists;
        if (gpu == cpu) continue;
        ++differing_lists;
        ASSERT_EQ(gpu.size(), cpu.size()) << "query " << i << " of " << segment.query_count;
        std::vector<int32_t> differing;
        std::set_symmetric_difference(gpu.begin(), gpu.end(), cpu.begin(), cpu.end(),
                                      std::back_inserter(differing));
        const std::vector<double> scores = BlockScores(problem, segment, i, key_head);
        double cut = std::numeric_limits<double>::infinity();
        const int64_t current = static_cast<int64_t>(scores.size()) - 1;
        for (const int32_t block : cpu) {
          const bool is_forced =
              block < problem.shape.init_blocks || block >= current - problem.shape.local_blocks;
          if (!is_forced) cut = std::min(cut, scores[static_cast<size_t>(block)]);
        }
        for (const int32_t block : differing) {
          ASSERT_NEAR(scores[static_cast<size_t>(block)], cut, relative_gap * cut)
              << "query " << i << " of " << segment.query_count << ", block " << block;
        }
      }
    }
  }
  EXPECT_LE(differing_lists, 1 + lists / 100);
}

// Every pooled row against the mean of its window; all others hold NaN.
void ExpectMeans(const Problem& problem) {
  const int64_t width = problem.k.View().row_size();
  for (const int64_t level : {1, 4}) {
    const int64_t size = level * problem.shape.kernel_size,
                  stride = level * problem.shape.kernel_stride;
    TestTensor pooled = level == 1 ? problem.fine_keys : problem.coarse_keys;
    for (const Segment& segment : problem.segments) {
      for (int64_t j = 0; j * stride + size <= segment.query_count; ++j) {
        for (int64_t d = 0; d < width; ++d) {
          double mean = 0;
          for (int64_t row = 0; row < size; ++row) {
            mean += problem.k.At((segment.key_begin + j * stride + row) * width + d) /
                    static_cast<double>(size);
          }
          const int64_t index = (segment.key_begin / stride + j) * width + d;
          ASSERT_NEAR(pooled.At(index), mean,
                      0x1p-8 * std::abs(mean) + static_cast<double>(size) * 0x1p-22);
          pooled.Set(index, std::nan(""));
        }
      }
    }
    for (int64_t i = 0; i < pooled.size(); ++i) ASSERT_TRUE(std::isnan(pooled.At(i))) << i;
  }
}

TEST(PoolKeysGpuTest, RowsHoldMeansOfWholeWindowsAndNothingElseIsWritten) {
  SKIP_WITHOUT_GPU();
  for (const int64_t head_dim : {16, 5}) {
    Problem problem = RandomProblem(
        {.documents = {100, 1, 7, 8, 33, 64}, .key_heads = 2, .head_dim = head_dim, .gap = 3});
    PoolAndSelect(problem);
    ExpectMeans(problem);
  }
}

TEST(PoolKeysGpuTest, OnlyNewPoolsTheWindowsThatEndInTheCall) {
  SKIP_WITHOUT_GPU();
  Problem whole = RandomProblem({.documents = {200}});
  PoolAndSelect(whole);
  GpuContext gpu(int64_t{16} << 20, int64_t{16} << 20);
  const TensorView k = gpu.Upload(whole.k);
  const TensorView fine = gpu.Poisoned(DType::kBFloat16, {50, 1, 16});
  const TensorView coarse = gpu.Poisoned(DType::kBFloat16, {12, 1, 16});
  int64_t first = 0;
  for (const int64_t count : {1, 6, 1, 23, 1, 1, 60, 35, 72}) {
    const std::vector<Segment> segments = {
        {.query_begin = first, .query_count = count, .first_position = first}};
    const TestTensor before = gpu.Download(fine);
    ASSERT_TRUE(PoolKeys(gpu, {.k = k,
                               .segments = segments,
                               .shape = whole.shape,
                               .only_new = true,
                               .fine_keys = fine,
                               .coarse_keys = coarse})
                    .ok());
    const int64_t old_windows = first < 8 ? 0 : (first - 8) / 4 + 1;
    EXPECT_TRUE(BitwiseEqual(gpu.Download(fine).View().Rows(0, old_windows),
                             before.View().Rows(0, old_windows)));
    first += count;
  }
  const auto windows = [](const TestTensor& pooled, int64_t count) {
    return pooled.View().Rows(0, count);
  };
  EXPECT_TRUE(BitwiseEqual(windows(gpu.Download(fine).As(DType::kFloat64), 49),
                           windows(whole.fine_keys, 49)));
  EXPECT_TRUE(BitwiseEqual(windows(gpu.Download(coarse).As(DType::kFloat64), 11),
                           windows(whole.coarse_keys, 11)));
}

TEST(SelectBlocksGpuTest, MatchesCpuOnRaggedDocumentsForEveryGroup) {
  SKIP_WITHOUT_GPU();
  for (const Heads& heads :
       {Heads{16, 16, 16}, Heads{16, 8, 32}, Heads{16, 4, 48}, Heads{16, 1, 64}, Heads{32, 2, 128},
        Heads{6, 2, 20}, Heads{80, 1, 16}, Heads{130, 1, 32}}) {
    SCOPED_TRACE(testing::Message()
                 << heads.heads << "/" << heads.key_heads << " dim " << heads.head_dim);
    Problem problem = RandomProblem({.documents = {1, 200, 97, 15, 131},
                                     .heads = heads.heads,
                                     .key_heads = heads.key_heads,
                                     .head_dim = heads.head_dim,
                                     .gap = 5});
    PoolAndSelect(problem);
    ExpectCpuLists(problem);
  }
}

TEST(SelectBlocksGpuTest, RowsOutsideSegmentsAreNotWritten) {
  SKIP_WITHOUT_GPU();
  Problem problem = RandomProblem({.documents = {150, 180}, .gap = 2});
  problem.segments[0].query_count = 100;
  PoolAndSelect(problem);
  for (int64_t row = 0; row < problem.rows(); ++row) {
    const bool is_named = (row >= 2 && row < 102) || (row >= 154 && row < 334);
    EXPECT_EQ(problem.List(row, 0).empty(), !is_named) << row;
  }
}

TEST(SelectBlocksGpuTest, MatchesCpuAroundTheSelectionLimitAndFarBeyond) {
  SKIP_WITHOUT_GPU();
  for (const int64_t length : {95 * 64, 96 * 64 - 1, 96 * 64 + 1, 97 * 64 - 49, 40000, 131072}) {
    SCOPED_TRACE(length);
    Problem problem = RandomProblem({.documents = {length},
                                     .shape = BlockSelectionShape{},
                                     .heads = 16,
                                     .key_heads = 1,
                                     .head_dim = 16});
    const std::vector<Segment> whole = problem.segments;
    problem.segments = {{.query_begin = length - 70,
                         .query_count = 70,
                         .key_begin = 0,
                         .first_position = length - 70}};
    PoolAndSelect(problem, whole);
    ExpectCpuLists(problem);
  }
}

// Many tiles of keys, and queries that begin and end anywhere in a tile.
TEST(SelectBlocksGpuTest, MatchesCpuWithHeadsOfModelsFarBeyondTheLimit) {
  SKIP_WITHOUT_GPU();
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t length : {97 * 64 - 49, 20011}) {
      SCOPED_TRACE(testing::Message() << head_dim << ", " << length);
      Problem problem = RandomProblem({.documents = {length},
                                       .shape = BlockSelectionShape{},
                                       .heads = 16,
                                       .key_heads = 1,
                                       .head_dim = head_dim});
      const std::vector<Segment> whole = problem.segments;
      problem.segments = {{.query_begin = length - 150,
                           .query_count = 150,
                           .key_begin = 0,
                           .first_position = length - 150}};
      PoolAndSelect(problem, whole);
      ExpectCpuLists(problem);
    }
  }
}

TEST(SelectBlocksGpuTest, OneTokenAloneReadsItsOwnBlock) {
  SKIP_WITHOUT_GPU();
  Problem problem = RandomProblem({.documents = {1}});
  PoolAndSelect(problem);
  EXPECT_THAT(problem.List(0, 0), ElementsAre(0));
}

// Queries, keys, pooled keys and lists reach beyond element 2^31.
TEST(SelectBlocksGpuTest, LongStreamOffsetsMatchCpu) {
  constexpr int64_t kTensors = 6;  // the lists are int32
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  Problem problem = RandomProblem({.documents = {262, 1, 69},
                                   .shape = {.kernel_size = 2,
                                             .kernel_stride = 1,
                                             .block_size = 1,
                                             .init_blocks = 1,
                                             .local_blocks = 2,
                                             .selected_blocks = 128},
                                   .heads = 32,
                                   .key_heads = 32,
                                   .head_dim = kLongWidth / 32});
  PoolAndSelect(problem, problem.segments,
                {.tensor_bytes = LongTensorBytes(kTensors),
                 .scratch_bytes = kLongScratchBytes,
                 .rows_before = kLongTokens - problem.rows()});
  ExpectMeans(problem);
  ExpectCpuLists(problem);
}

// All queries of half a million; the last are compared.
TEST(SelectBlocksGpuTest, LongDocumentMatchesCpuAtItsEnd) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kCompared = 70;
  Problem problem =
      RandomProblem({.documents = {kLongTokens}, .shape = BlockSelectionShape{}, .heads = 1});
  PoolAndSelect(problem, problem.segments,
                {.tensor_bytes = int64_t{1} << 30, .scratch_bytes = kLongScratchBytes});
  ExpectMeans(problem);
  problem.segments = {{.query_begin = kLongTokens - kCompared,
                       .query_count = kCompared,
                       .key_begin = 0,
                       .first_position = kLongTokens - kCompared}};
  ExpectCpuLists(problem);
}

TEST(SelectBlocksGpuTest, HeadTooWideIsRefusedWithTheLimit) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(int64_t{1} << 20, int64_t{1} << 20);
  const TensorView rows = gpu.Zeros(DType::kBFloat16, {2, 1, 144});
  const std::vector<Segment> segments = {{.query_begin = 0, .query_count = 2}};
  const TensorView blocks = gpu.Zeros(DType::kInt32, {2, 1, kSmallShape.selected_blocks});
  ExpectUnimplemented(SelectBlocks(gpu, {.q = rows,
                                         .fine_keys = rows,
                                         .coarse_keys = rows,
                                         .segments = segments,
                                         .shape = kSmallShape,
                                         .blocks = blocks}),
                      {"SelectBlocks", "144", "1 to 128", "device: cpu"});
}

TEST(SelectBlocksGpuTest, OddWindowsAndBlocksMatchCpu) {
  SKIP_WITHOUT_GPU();
  for (const BlockSelectionShape& shape :
       {BlockSelectionShape{32, 16, 8, 1, 1, 5}, BlockSelectionShape{7, 3, 10, 2, 1, 9},
        BlockSelectionShape{5, 5, 1, 0, 0, 3}, BlockSelectionShape{2, 1, 100, 1, 0, 2},
        BlockSelectionShape{8, 4, 16, 3, 2, 6}}) {
    Problem problem = RandomProblem(
        {.documents = {333, 260}, .shape = shape, .heads = 4, .key_heads = 2, .head_dim = 32});
    PoolAndSelect(problem);
    ExpectCpuLists(problem);
  }
}

TEST(SelectBlocksGpuTest, EqualKeysTakeTheLowestBlocks) {
  SKIP_WITHOUT_GPU();
  for (const Heads& heads : kSmallHeads) {
    Problem problem = RandomProblem({.documents = {200},
                                     .heads = heads.heads,
                                     .key_heads = heads.key_heads,
                                     .head_dim = heads.head_dim});
    for (int64_t i = 0; i < problem.k.size(); ++i) problem.k.Set(i, 0.5);
    PoolAndSelect(problem);
    // Block 0 is forced, so are 10, 11 and the current 12.
    EXPECT_THAT(problem.List(199, 0), ElementsAre(0, 1, 2, 10, 11, 12));
  }
}

// More of them than a histogram has bins.
TEST(SelectBlocksGpuTest, ManyEqualKeysTakeTheLowestBlocks) {
  SKIP_WITHOUT_GPU();
  Problem problem = RandomProblem({.documents = {20011},
                                   .shape = BlockSelectionShape{},
                                   .heads = 16,
                                   .key_heads = 1,
                                   .head_dim = 64});
  for (int64_t i = 0; i < problem.k.size(); ++i) problem.k.Set(i, 0.5);
  PoolAndSelect(problem);
  const std::vector<int32_t> list = problem.List(20010, 0);
  ASSERT_EQ(list.size(), 96U);
  for (int32_t i = 0; i < 96; ++i) {
    ASSERT_EQ(list[static_cast<size_t>(i)], i < 63 ? i : 20010 / 64 - 95 + i);
  }
}

TEST(SelectBlocksGpuTest, ScoresAreZeroWhereNoCoarseKeyIsVisible) {
  SKIP_WITHOUT_GPU();
  Problem problem = RandomProblem({.documents = {160}, .shape = {32, 16, 8, 1, 1, 5}});
  PoolAndSelect(problem);
  EXPECT_THAT(problem.List(126, 0), ElementsAre(0, 1, 2, 14, 15));
}

TEST(SelectBlocksGpuTest, LargeLogitsKeepListsWellFormed) {
  SKIP_WITHOUT_GPU();
  for (const Heads& heads : kSmallHeads) {
    Problem problem = RandomProblem({.documents = {300},
                                     .heads = heads.heads,
                                     .key_heads = heads.key_heads,
                                     .head_dim = heads.head_dim});
    for (int64_t i = 0; i < problem.q.size(); ++i) problem.q.Set(i, 128 * problem.q.At(i));
    PoolAndSelect(problem);
    for (int64_t row = 96; row < 300; ++row) {
      const std::vector<int32_t> list = problem.List(row, 0);
      ASSERT_EQ(list.size(), 6U);
      ASSERT_TRUE(std::adjacent_find(list.begin(), list.end(), std::greater_equal<>()) ==
                  list.end());
      ASSERT_EQ(list.front(), 0);
      ASSERT_EQ(list.back(), row / 16);
      ASSERT_EQ(list[3], row / 16 - 2);
    }
  }
}

TEST(SelectBlocksGpuTest, LaterDocumentsIgnoreEarlierTokens) {
  SKIP_WITHOUT_GPU();
  Problem before = RandomProblem({.documents = {150, 1, 180}, .gap = 2});
  Problem after = before;
  for (int64_t i = 2 * 16; i < 152 * 16; ++i) after.k.Set(i, -after.k.At(i));  // document 0
  PoolAndSelect(before);
  PoolAndSelect(after);
  const auto rows = [](const Problem& problem, int64_t begin, int64_t count) {
    return problem.blocks.View().Rows(begin, count);
  };
  EXPECT_FALSE(BitwiseEqual(rows(after, 0, 152), rows(before, 0, 152)));
  EXPECT_TRUE(BitwiseEqual(rows(after, 152, 185), rows(before, 152, 185)));
}

TEST(SelectBlocksGpuTest, NaNStaysInItsDocument) {
  SKIP_WITHOUT_GPU();
  for (const Heads& heads : kSmallHeads) {
    Problem clean = RandomProblem({.documents = {150, 97, 1, 180},
                                   .heads = heads.heads,
                                   .key_heads = heads.key_heads,
                                   .head_dim = heads.head_dim});
    PoolAndSelect(clean);
    for (const Segment& poisoned : clean.segments) {
      Problem problem = clean;
      for (TestTensor* tensor : {&problem.q, &problem.k}) {
        tensor->PoisonRows(poisoned.query_begin, 1);
        tensor->PoisonRows(poisoned.query_begin + poisoned.query_count - 1, 1);
      }
      PoolAndSelect(problem);
      for (const Segment& document : clean.segments) {
        if (document.query_begin == poisoned.query_begin) continue;
        EXPECT_TRUE(
            BitwiseEqual(problem.blocks.View().Rows(document.query_begin, document.query_count),
                         clean.blocks.View().Rows(document.query_begin, document.query_count)));
      }
    }
  }
}

TEST(SelectBlocksGpuTest, BlocksWithNaNAreReadByAllWhoSeeThem) {
  SKIP_WITHOUT_GPU();
  for (const Heads& heads : kSmallHeads) {
    Problem problem = RandomProblem({.documents = {300},
                                     .heads = heads.heads,
                                     .key_heads = heads.key_heads,
                                     .head_dim = heads.head_dim});
    problem.k.PoisonRows(5 * 16 + 7, 1);
    PoolAndSelect(problem);
    // From position 128 on block 5 is no local one. Its windows overlap no other block.
    for (int64_t row = 128; row < 300; ++row) {
      EXPECT_THAT(problem.List(row, 0), testing::Contains(5)) << row;
    }
  }
}

TEST(SelectBlocksGpuTest, ChunksDecodingAndRunsGiveTheSameLists) {
  SKIP_WITHOUT_GPU();
  for (const Heads& heads : kSmallHeads) {
    const ProblemCase c = {.documents = {331},
                           .heads = heads.heads,
                           .key_heads = heads.key_heads,
                           .head_dim = heads.head_dim};
    Problem whole = RandomProblem(c);
    PoolAndSelect(whole);
    for (const int64_t chunk : {331, 50, 1}) {
      Problem chunked = RandomProblem(c);
      const std::vector<Segment> all = chunked.segments;
      chunked.segments.clear();
      for (int64_t first = 0; first < 331; first += chunk) {
        chunked.segments.push_back({.query_begin = first,
                                    .query_count = std::min<int64_t>(chunk, 331 - first),
                                    .key_begin = 0,
                                    .first_position = first});
      }
      PoolAndSelect(chunked, all);
      EXPECT_TRUE(BitwiseEqual(chunked.blocks.View(), whole.blocks.View())) << chunk;
      EXPECT_TRUE(BitwiseEqual(chunked.fine_keys.View(), whole.fine_keys.View())) << chunk;
      EXPECT_TRUE(BitwiseEqual(chunked.coarse_keys.View(), whole.coarse_keys.View())) << chunk;
    }
  }
}

}  // namespace
}  // namespace salamander
