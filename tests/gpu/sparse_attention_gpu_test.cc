#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/attention/block_attention.h"
#include "kernels/sparse_attention.h"
#include "tests/gpu/long_attention.h"

namespace salamander {
namespace {

const AttentionOps<SparseAttentionForwardArgs, SparseAttentionBackwardArgs> kSparse = {
    SparseAttentionForward, SparseAttentionBackward};

AttentionProblem Twin(const AttentionProblem& problem) {
  AttentionProblem twin = problem;
  reference::SparseAttentionForward(twin.Forward<SparseAttentionForwardArgs>());
  reference::SparseAttentionBackward(twin.Backward<SparseAttentionBackwardArgs>());
  return twin;
}

// Says whether a query at `position` reads a block that lies before its own.
using Choice = std::function<bool(int64_t position, int64_t key_head, int64_t block)>;

// Lists of the chosen blocks, the latest first to get a place, and every query's own, of at most
// `length`. Rows outside the segments hold the lowest integer.
void SetLists(AttentionProblem& problem, int64_t block_size, int64_t length, const Choice& choice) {
  problem.block_size = block_size;
  problem.blocks =
      TestTensor::Poisoned(DType::kInt32, {problem.rows(), problem.key_heads(), length});
  for (const Segment& segment : problem.segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) {
      for (int64_t key_head = 0; key_head < problem.key_heads(); ++key_head) {
        const int64_t position = segment.first_position + i;
        std::vector<int64_t> list = {position / block_size};
        for (int64_t block = position / block_size - 1; block >= 0; --block) {
          if (static_cast<int64_t>(list.size()) == length) break;
          if (choice(position, key_head, block)) list.push_back(block);
        }
        std::reverse(list.begin(), list.end());
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

// Of one KV head, lists of a document's first block, the one before the query's own, and its own.
TestTensor ShortLists(int64_t rows, const std::vector<Segment>& segments, int64_t block_size) {
  constexpr int64_t kLength = 3;
  TestTensor lists = TestTensor::Constant(DType::kInt32, {rows, 1, kLength}, -1.0);
  for (const Segment& segment : segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) {
      const int64_t own = (segment.first_position + i) / block_size;
      int64_t place = (segment.query_begin + i) * kLength;
      if (own > 1) lists.Set(place++, 0.0);
      if (own > 0) lists.Set(place++, static_cast<double>(own - 1));
      lists.Set(place, static_cast<double>(own));
    }
  }
  return lists;
}

struct Shape {
  AttentionCase attention;
  int64_t block_size = 64;
  double probability = 0.5;
  int64_t length = 12;
};

TEST(SparseAttentionGpuTest, MatchesTwinForEveryGroupHeadDimAndBlockSize) {
  SKIP_WITHOUT_GPU();
  const Shape shapes[] = {
      {{.documents = {1}}},
      {{.documents = {300, 1, 65}, .heads = 4, .key_heads = 4, .head_dim = 16}},
      {{.documents = {129, 260}, .heads = 4, .key_heads = 2, .head_dim = 32}},
      {{.documents = {1, 310}, .heads = 4, .key_heads = 1, .head_dim = 64}},
      {{.documents = {270}, .heads = 16, .key_heads = 1, .head_dim = 128}},
      {{.documents = {700}, .heads = 32, .key_heads = 2, .head_dim = 128}, 64, 0.4, 6},
      {{.documents = {65, 1, 1300, 200}, .heads = 16, .key_heads = 2, .head_dim = 64}, 64, 0.2},
      {{.documents = {1100}, .heads = 32, .key_heads = 1, .head_dim = 64}, 128, 0.4, 4},
      {{.documents = {520}, .heads = 64, .key_heads = 1, .head_dim = 128}, 192, 0.4, 2},
      {{.documents = {90, 41}, .heads = 6, .key_heads = 2}, 8},
      {{.documents = {333}, .heads = 4, .key_heads = 2, .head_dim = 48}, 48},
      {{.documents = {700}, .heads = 2, .key_heads = 1}, 128},
      {{.documents = {700}, .heads = 2, .key_heads = 1}, 300},
      {{.documents = {120}, .heads = 2, .key_heads = 1}, 1000},
      {{.documents = {600}, .heads = 4, .key_heads = 2}, 16, 0.05},
      {{.documents = {150}, .heads = 4, .key_heads = 1, .head_dim = 20}, 16},
      {{.documents = {40, 9}, .heads = 80, .key_heads = 1}, 8},
      {{.documents = std::vector<int64_t>(300, 1)}}};
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message()
                 << testing::PrintToString(shape.attention.documents) << " heads "
                 << shape.attention.heads << "/" << shape.attention.key_heads << " dim "
                 << shape.attention.head_dim << " blocks of " << shape.block_size);
    AttentionProblem problem = RoundedAttention(shape.attention);
    SetLists(problem, shape.block_size, shape.length, RandomChoice(shape.probability, 3));
    ExpectGpuNear(kSparse.Run(problem), Twin(problem));
  }
}

// More chunks of queries and more blocks than the list of readers handles at once.
TEST(SparseAttentionGpuTest, ThousandsOfBlocksOfOneKeyMatchTwin) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem =
      RoundedAttention({.documents = {2500, 17}, .heads = 1, .key_heads = 1, .head_dim = 16});
  SetLists(problem, 1, 20, RandomChoice(0.02, 3));
  ExpectGpuNear(kSparse.Run(problem), Twin(problem));
}

// The lists, of 128 blocks, reach beyond element 2^31 too.
TEST(SparseAttentionGpuTest, LongStreamOffsetsMatchTwin) {
  AttentionProblem problem = OffsetAttention();
  SetLists(problem, 2, 128, RandomChoice(0.9, 3));
  const StreamPlace place = EndOfLongStream(problem);
  SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place);
  ExpectGpuNear(kSparse.Run(problem, place), Twin(problem));
}

TEST(SparseAttentionGpuTest, LongStreamOffsetsOfAWideGroupMatchTwin) {
  AttentionProblem problem = RoundedAttention(
      {.documents = {260, 1, 69}, .heads = 32, .key_heads = 2, .head_dim = kLongWidth / 32});
  SetLists(problem, 64, 128, RandomChoice(0.7, 3));
  const StreamPlace place = EndOfLongStream(problem);
  SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place);
  ExpectGpuNear(kSparse.Run(problem, place), Twin(problem));
}

// The last query of every stretch reads its own copies of the stretch's last blocks, and all read
// the first copy of the first.
TEST(SparseAttentionGpuTest, LongDocumentMatchesTwin) {
  AttentionProblem problem = LongAttention(16);
  const StreamPlace place = LongAttentionPlace();
  const AttentionStream stream(problem, place);
  problem.blocks = ShortLists(stream.rows(), stream.segments(), problem.block_size);
  SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place);
  const auto stretch = [](const AttentionProblem& whole, int64_t s) {
    AttentionProblem expected = whole;
    KeepLastQuery(expected);
    expected.blocks = ShortLists(expected.rows(), expected.segments, expected.block_size);
    expected = Twin(expected);
    ScaleKeyGradients(expected, 0, expected.block_size, s == 1 ? kStretches : 0.0);
    return expected;
  };
  ExpectLongAttention(kSparse, problem, place, stretch);
}

TEST(SparseAttentionGpuTest, FullListsEqualBlockDenseAttentionBitwise) {
  SKIP_WITHOUT_GPU();
  const AttentionOps<DenseAttentionForwardArgs, DenseAttentionBackwardArgs> dense = {
      cuda::BlockDenseForward, cuda::BlockDenseBackward};
  for (const int64_t heads : {4, 32}) {
    AttentionProblem problem = RoundedAttention(
        {.documents = {127, 65, 700}, .heads = heads, .key_heads = 2, .head_dim = 64});
    SetLists(problem, 64, 96, kEveryBlock);
    ExpectResultsBitwiseEqual(kSparse.Run(problem), dense.Run(problem));
  }
}

TEST(SparseAttentionGpuTest, NeighboursWithoutACommonBlockMatchTwin) {
  SKIP_WITHOUT_GPU();
  for (const int64_t heads : {2, 32}) {
    AttentionProblem problem =
        RoundedAttention({.documents = {400}, .heads = heads, .key_heads = 2});
    SetLists(problem, 16, 12,
             [](int64_t position, int64_t, int64_t block) { return block % 8 == position % 8; });
    ExpectGpuNear(kSparse.Run(problem), Twin(problem));
  }
}

TEST(SparseAttentionGpuTest, ABlockThatAllChooseMatchesTwin) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem = RoundedAttention({.documents = {1500}, .heads = 4, .key_heads = 1});
  SetLists(problem, 16, 2, [](int64_t, int64_t, int64_t block) { return block == 1; });
  ExpectGpuNear(kSparse.Run(problem), Twin(problem));
}

// So many that their work is cut into parts.
TEST(SparseAttentionGpuTest, ABlockThatThousandsChooseMatchesTwinAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const int64_t block_size : {16, 96}) {
    AttentionProblem problem =
        RoundedAttention({.documents = {5000, 300}, .heads = 2, .key_heads = 1});
    SetLists(problem, block_size, 2, [](int64_t, int64_t, int64_t block) { return block == 1; });
    const AttentionProblem actual = kSparse.Run(problem);
    ExpectGpuNear(actual, Twin(problem));
    ExpectResultsBitwiseEqual(actual, kSparse.Run(problem));
  }
}

TEST(SparseAttentionGpuTest, BlocksThatNoneChoosesGetExactlyNoGradient) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem = RoundedAttention({.documents = {700}});
  SetLists(problem, 64, 4, [](int64_t, int64_t, int64_t block) { return block == 0; });
  // Queries of the second KV head's third block look elsewhere too: nobody reads it.
  for (int64_t row = 128; row < 192; ++row) {
    problem.blocks.Set((row * 2 + 1) * 4 + 0, 0);
    problem.blocks.Set((row * 2 + 1) * 4 + 1, -1);
  }
  const AttentionProblem actual = kSparse.Run(problem);
  for (int64_t row = 128; row < 192; ++row) {
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t index = (row * 2 + 1) * 16 + i;
      ASSERT_EQ(actual.dk.At(index), problem.dk.At(index));
      ASSERT_EQ(actual.dv.At(index), problem.dv.At(index));
    }
  }
  ExpectGpuNear(actual, Twin(problem));
}

TEST(SparseAttentionGpuTest, HeadTooWideIsRefusedWithTheLimit) {
  SKIP_WITHOUT_GPU();
  ExpectWideHeadRefused(kSparse);
}

TEST(SparseAttentionGpuTest, RowsOutsideSegmentsAreNeitherReadNorWritten) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem =
      RoundedAttention({.documents = {100, 1, 130}, .heads = 4, .key_heads = 2, .gap = 3});
  SetLists(problem, 16, 6, RandomChoice(0.4, 5));
  const AttentionProblem actual = kSparse.Run(problem);
  ExpectOtherRowsUntouched(problem, actual);
  ExpectGpuNear(actual, Twin(problem));
  problem = RoundedAttention(
      {.documents = {100, 1, 633}, .heads = 16, .key_heads = 1, .head_dim = 128, .gap = 3});
  SetLists(problem, 64, 6, RandomChoice(0.4, 5));
  const AttentionProblem wide = kSparse.Run(problem);
  ExpectOtherRowsUntouched(problem, wide);
  ExpectGpuNear(wide, Twin(problem));
}

TEST(SparseAttentionGpuTest, LaterDocumentsIgnoreEarlierTokens) {
  SKIP_WITHOUT_GPU();
  AttentionProblem before = RoundedAttention({.documents = {170, 1, 333}});
  SetLists(before, 16, 6, RandomChoice(0.4, 5));
  AttentionProblem after = before;
  for (TestTensor* tensor : {&after.q, &after.k, &after.v, &after.d_out}) {
    tensor->Set(3 * 2 * 16, 5.0);
  }
  before = kSparse.Run(before);
  after = kSparse.Run(after);
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    const TensorView a = (before.*result).View(), b = (after.*result).View();
    EXPECT_FALSE(BitwiseEqual(a.Rows(0, 170), b.Rows(0, 170)));
    EXPECT_TRUE(BitwiseEqual(a.Rows(170, 334), b.Rows(170, 334)));
  }
}

TEST(SparseAttentionGpuTest, NaNStaysInItsDocument) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem = RoundedAttention(
      {.documents = {70, 1, 333, 40, 64}, .heads = 6, .key_heads = 2, .head_dim = 64});
  SetLists(problem, 16, 6, RandomChoice(0.4, 5));
  ExpectNaNStaysInItsDocument(kSparse, problem);
  problem = RoundedAttention(
      {.documents = {70, 1, 633, 40, 64}, .heads = 16, .key_heads = 2, .head_dim = 64});
  SetLists(problem, 64, 6, RandomChoice(0.4, 5));
  ExpectNaNStaysInItsDocument(kSparse, problem);
}

// Documents whose first query lies anywhere in a block, between keys of others and NaN.
TEST(SparseAttentionGpuTest, QueriesFromAnyPlaceInABlockMatchTwinBesideNaN) {
  SKIP_WITHOUT_GPU();
  for (const int64_t cached : {1, 37, 63, 65, 100}) {
    for (const Shape& shape :
         {Shape{{.documents = {200, 131, 433}, .heads = 6, .key_heads = 2, .head_dim = 64}, 16},
          Shape{{.documents = {200, 131, 433}, .heads = 32, .key_heads = 2, .head_dim = 128}}}) {
      SCOPED_TRACE(testing::Message()
                   << cached << " cached keys, heads of " << shape.attention.head_dim);
      AttentionCase attention = shape.attention;
      attention.gap = 3;
      AttentionProblem problem = RoundedAttention(attention);
      for (Segment& segment : problem.segments) {
        segment.query_begin += cached;
        segment.query_count -= cached;
        segment.first_position = cached;
      }
      SetLists(problem, shape.block_size, shape.length, RandomChoice(shape.probability, 3));
      const AttentionProblem actual = kSparse.Run(problem);
      ExpectOtherRowsUntouched(problem, actual);
      ExpectGpuNear(actual, Twin(problem));
      if (cached == 37) ExpectNaNStaysInItsDocument(kSparse, problem);
    }
  }
}

TEST(SparseAttentionGpuTest, RunsAreBitwiseEqual) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem =
      RoundedAttention({.documents = {3000, 1, 90}, .heads = 32, .key_heads = 2, .head_dim = 128});
  SetLists(problem, 64, 9, RandomChoice(0.3, 5));
  ExpectResultsBitwiseEqual(kSparse.Run(problem), kSparse.Run(problem));
}

TEST(SparseAttentionGpuTest, LargeLogitsStayFiniteAndRight) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem = RoundedAttention({.documents = {300}, .deviation = 8.0});
  SetLists(problem, 16, 6, RandomChoice(0.4, 5));
  const AttentionProblem twin = Twin(problem);
  const AttentionProblem actual = kSparse.Run(problem);
  const std::vector<bool> all(300, true);
  ExpectRowsNear(actual.out, twin.out, all, 2 * kBFloat16Rounding, 0, "out");
  ExpectRowsNear(actual.logsumexp, twin.logsumexp, all, 0x1p-22, 0, "logsumexp");
  for (int64_t i = 0; i < actual.dq.size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual.dq.At(i)) && std::isfinite(actual.dk.At(i)));
  }
}

TEST(SparseAttentionGpuTest, ChunkedPrefillAndDecodingMatchTwin) {
  SKIP_WITHOUT_GPU();
  AttentionProblem problem =
      RoundedAttention({.documents = {331}, .heads = 32, .key_heads = 2, .head_dim = 64});
  const std::vector<Segment> whole = problem.segments;
  for (const int64_t block_size : {16, 64}) {
    problem.segments = whole;
    SetLists(problem, block_size, 19, RandomChoice(0.9, 5));
    for (const Segment& segment :
         {Segment{.query_begin = 130, .query_count = 100, .key_begin = 0, .first_position = 130},
          Segment{.query_begin = 329, .query_count = 2, .key_begin = 0, .first_position = 329},
          Segment{.query_begin = 330, .query_count = 1, .key_begin = 0, .first_position = 330}}) {
      problem.segments = {segment};
      const AttentionProblem actual = kSparse.Run(problem);
      ExpectOtherRowsUntouched(problem, actual);
      ExpectGpuNear(actual, Twin(problem));
    }
  }
}

// As a context-parallel rank has them: queries are a slice, keys are of the whole stream; the first
// document began before the slice, the last goes on behind it.
TEST(SparseAttentionGpuTest, SlicesReadTheKeysOfTheWholeStream) {
  SKIP_WITHOUT_GPU();
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t before : {1, 63, 64, 333}) {
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << ", " << before << " before");
      AttentionProblem problem =
          RoundedAttention({.documents = {900}, .heads = 32, .key_heads = 2, .head_dim = head_dim});
      problem.segments = {
          {.query_begin = 0, .query_count = 150, .key_begin = 20, .first_position = before},
          {.query_begin = 150, .query_count = 1, .key_begin = before + 170},
          {.query_begin = 151, .query_count = 200, .key_begin = before + 171}};
      SetLists(problem, 64, 6, RandomChoice(0.6, 5));
      const AttentionProblem actual = kSparse.Run(problem);
      ExpectOtherRowsUntouched(problem, actual);
      ExpectGpuNear(actual, Twin(problem));
    }
  }
}

}  // namespace
}  // namespace salamander
