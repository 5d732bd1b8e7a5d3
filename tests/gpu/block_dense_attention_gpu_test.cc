#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/attention/block_attention.h"
#include "tests/gpu/long_attention.h"

namespace salamander {
namespace {

const AttentionOps<DenseAttentionForwardArgs, DenseAttentionBackwardArgs> kDense = {
    cuda::BlockDenseForward, cuda::BlockDenseBackward};

AttentionProblem Twin(const AttentionProblem& problem) {
  AttentionProblem twin = problem;
  reference::DenseAttentionForward(twin.Forward<DenseAttentionForwardArgs>());
  reference::DenseAttentionBackward(twin.Backward<DenseAttentionBackwardArgs>());
  return twin;
}

TEST(BlockDenseAttentionGpuTest, MatchesTwinForEveryGroupAndHeadDim) {
  SKIP_WITHOUT_GPU();
  const AttentionCase cases[] = {
      {.documents = {1}},
      {.documents = {70, 1, 33}, .heads = 4, .key_heads = 4, .head_dim = 16},
      {.documents = {65, 129}, .heads = 4, .key_heads = 2, .head_dim = 32},
      {.documents = {100}, .heads = 2, .key_heads = 2, .head_dim = 48},
      {.documents = {1, 300}, .heads = 2, .key_heads = 1, .head_dim = 64},
      {.documents = {64, 63}, .heads = 4, .key_heads = 2, .head_dim = 80},
      {.documents = {90}, .heads = 3, .key_heads = 1, .head_dim = 112},
      {.documents = {300, 1, 129}, .heads = 32, .key_heads = 2, .head_dim = 128},
      {.documents = {90}, .heads = 4, .key_heads = 1, .head_dim = 20},  // no whole vectors
      {.documents = {90}, .heads = 2, .key_heads = 1, .head_dim = 7},
      {.documents = {77, 30}, .heads = 6, .key_heads = 2},
      {.documents = {5, 9}, .heads = 80, .key_heads = 1},  // a group wider than a tile
      {.documents = {777}, .heads = 2, .key_heads = 1},
      {.documents = std::vector<int64_t>(300, 1)}};
  for (const AttentionCase& c : cases) {
    SCOPED_TRACE(testing::Message() << testing::PrintToString(c.documents) << " heads " << c.heads
                                    << "/" << c.key_heads << " dim " << c.head_dim);
    const AttentionProblem problem = RoundedAttention(c);
    ExpectGpuNear(kDense.Run(problem), Twin(problem));
  }
}

TEST(BlockDenseAttentionGpuTest, LongStreamOffsetsMatchTwin) {
  const AttentionProblem problem = OffsetAttention();
  const StreamPlace place = EndOfLongStream(problem);
  SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place);
  ExpectGpuNear(kDense.Run(problem, place), Twin(problem));
}

TEST(BlockDenseAttentionGpuTest, LongDocumentMatchesTwin) {
  const AttentionProblem problem = LongAttention(32);
  const StreamPlace place = LongAttentionPlace();
  SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place);
  ExpectLongAttention(kDense, problem, place, DenseStretch);
}

TEST(BlockDenseAttentionGpuTest, UnalignedTensorsMatchTwin) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem problem =
      RoundedAttention({.documents = {70, 40}, .heads = 4, .key_heads = 2, .head_dim = 32});
  const AttentionProblem twin = Twin(problem);
  GpuContext gpu(int64_t{64} << 20, int64_t{64} << 20);
  // A tensor one element into an allocation.
  const auto shifted = [&](const TestTensor& tensor) {
    const TensorView view = tensor.View();
    TestTensor flat(DType::kBFloat16, {view.size() + 1});
    for (int64_t i = 0; i < view.size(); ++i) flat.Set(i + 1, tensor.At(i));
    return gpu.Upload(flat).Rows(1, view.size()).Reshape({view.dim(0), view.dim(1), view.dim(2)});
  };
  const DenseAttentionForwardArgs args = {.q = shifted(problem.q),
                                          .k = shifted(problem.k),
                                          .v = shifted(problem.v),
                                          .segments = problem.segments,
                                          .scale = problem.scale,
                                          .out = shifted(problem.out),
                                          .logsumexp = gpu.Poisoned(DType::kFloat32, {110, 4})};
  ASSERT_TRUE(cuda::BlockDenseForward(gpu, args).ok());
  const DenseAttentionBackwardArgs gradients = {.q = args.q,
                                                .k = args.k,
                                                .v = args.v,
                                                .segments = args.segments,
                                                .scale = args.scale,
                                                .out = args.out,
                                                .logsumexp = args.logsumexp,
                                                .d_out = shifted(problem.d_out),
                                                .dq = shifted(problem.dq),
                                                .dk = shifted(problem.dk),
                                                .dv = shifted(problem.dv)};
  ASSERT_TRUE(cuda::BlockDenseBackward(gpu, gradients).ok());
  AttentionProblem actual = problem;
  actual.out = gpu.Download(args.out), actual.logsumexp = gpu.Download(args.logsumexp);
  actual.dq = gpu.Download(gradients.dq);
  actual.dk = gpu.Download(gradients.dk), actual.dv = gpu.Download(gradients.dv);
  ExpectGpuNear(actual, twin);
}

TEST(BlockDenseAttentionGpuTest, RowsOutsideSegmentsAreNeitherReadNorWritten) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem problem = RoundedAttention(
      {.documents = {70, 1, 130}, .heads = 4, .key_heads = 2, .head_dim = 32, .gap = 3});
  const AttentionProblem actual = kDense.Run(problem);
  ExpectOtherRowsUntouched(problem, actual);
  ExpectGpuNear(actual, Twin(problem));
}

TEST(BlockDenseAttentionGpuTest, RunsAreBitwiseEqual) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem problem = RoundedAttention(
      {.documents = {530, 1, 90, 1100}, .heads = 32, .key_heads = 2, .head_dim = 128});
  ExpectResultsBitwiseEqual(kDense.Run(problem), kDense.Run(problem));
}

TEST(BlockDenseAttentionGpuTest, LaterDocumentsIgnoreEarlierTokens) {
  SKIP_WITHOUT_GPU();
  AttentionProblem before = RoundedAttention({.documents = {70, 1, 133}});
  AttentionProblem after = before;
  for (TestTensor* tensor : {&after.q, &after.k, &after.v, &after.d_out}) {
    tensor->Set(3 * 2 * 16, 5.0);
  }
  before = kDense.Run(before);
  after = kDense.Run(after);
  for (TestTensor AttentionProblem::*result : AttentionProblem::kResults) {
    const TensorView a = (before.*result).View(), b = (after.*result).View();
    EXPECT_FALSE(BitwiseEqual(a.Rows(0, 70), b.Rows(0, 70)));
    EXPECT_TRUE(BitwiseEqual(a.Rows(70, 134), b.Rows(70, 134)));
  }
}

TEST(BlockDenseAttentionGpuTest, NaNStaysInItsDocument) {
  SKIP_WITHOUT_GPU();
  for (const int64_t head_dim : {20, 64}) {
    ExpectNaNStaysInItsDocument(
        kDense,
        RoundedAttention(
            {.documents = {70, 1, 133, 40, 64}, .heads = 6, .key_heads = 2, .head_dim = head_dim}));
  }
}

TEST(BlockDenseAttentionGpuTest, EarlierTokensIgnoreLaterOnes) {
  SKIP_WITHOUT_GPU();
  AttentionProblem before = RoundedAttention({.documents = {200}});
  AttentionProblem after = before;
  after.k.Set(101 * 2 * 16, 5.0);
  after.v.Set(101 * 2 * 16, 5.0);
  before = kDense.Run(before);
  after = kDense.Run(after);
  EXPECT_TRUE(BitwiseEqual(before.out.View().Rows(0, 101), after.out.View().Rows(0, 101)));
  EXPECT_FALSE(BitwiseEqual(before.out.View().Rows(101, 1), after.out.View().Rows(101, 1)));
}

// Logits of about -10000 and 10000: fp32 holds them to 2^-11, which the exponential passes on.
TEST(BlockDenseAttentionGpuTest, HugeLogitsOfEitherSignStayRight) {
  SKIP_WITHOUT_GPU();
  for (const double sign : {-1.0, 1.0}) {
    AttentionProblem problem = RoundedAttention({.documents = {150}, .head_dim = 64});
    for (int64_t i = 0; i < problem.q.size(); ++i) {
      problem.q.Set(i, sign * (36.0 + 0.25 * std::round(problem.q.At(i))));
      problem.k.Set(i, 36.0 + 0.25 * std::round(problem.k.At(i)));
    }
    problem.scale = 0.125;
    const AttentionProblem twin = Twin(problem);
    const AttentionProblem actual = kDense.Run(problem);
    const std::vector<bool> all(150, true);
    EXPECT_GT(std::abs(twin.logsumexp.At(0)), 9000.0);
    ExpectRowsNear(actual.logsumexp, twin.logsumexp, all, 0x1p-22, 0, "logsumexp");
    ExpectRowsNear(actual.out, twin.out, all, 2 * kBFloat16Rounding + 0x1p-10, 0, "out");
    ExpectRowsNear(actual.dv, twin.dv, all, 4 * kBFloat16Rounding + 0x1p-9, 0, "dv");
    for (int64_t i = 0; i < actual.dq.size(); ++i) {
      ASSERT_TRUE(std::isfinite(actual.dq.At(i)) && std::isfinite(actual.dk.At(i)));
    }
  }
}

TEST(BlockDenseAttentionGpuTest, NegativeAndZeroScalesMatchTwin) {
  SKIP_WITHOUT_GPU();
  for (const double scale : {-0.25, 0.0}) {
    AttentionProblem problem = RoundedAttention({.documents = {150, 70}});
    problem.scale = scale;
    ExpectGpuNear(kDense.Run(problem), Twin(problem));
  }
}

TEST(BlockDenseAttentionGpuTest, ChunkedPrefillEqualsWhole) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem whole =
      RoundedAttention({.documents = {611}, .heads = 16, .key_heads = 1, .head_dim = 64});
  AttentionProblem chunked = whole;
  chunked.segments.clear();
  for (int64_t first = 0; first < 611; first += 100) {
    chunked.segments = {{.query_begin = first,
                         .query_count = std::min<int64_t>(100, 611 - first),
                         .key_begin = 0,
                         .first_position = first}};
    const AttentionProblem actual = kDense.Run(chunked);
    const AttentionProblem expected = kDense.Run(whole);
    const int64_t count = chunked.segments[0].query_count;
    for (TestTensor AttentionProblem::*result :
         {&AttentionProblem::out, &AttentionProblem::logsumexp, &AttentionProblem::dq}) {
      EXPECT_TRUE(BitwiseEqual((actual.*result).View().Rows(first, count),
                               (expected.*result).View().Rows(first, count)));
    }
    AttentionProblem twin = chunked;
    ExpectGpuNear(actual, Twin(twin));
  }
}

TEST(BlockDenseAttentionGpuTest, BatchedDecodingMatchesTwin) {
  SKIP_WITHOUT_GPU();
  const int64_t cached[] = {4500, 1, 513, 64, 2000};
  for (const int64_t queries : {1, 3}) {
    AttentionProblem problem =
        RoundedAttention({.documents = {8000}, .heads = 16, .key_heads = 2, .head_dim = 128});
    problem.segments.clear();
    int64_t row = 5, key = 2;
    for (const int64_t keys : cached) {
      const int64_t count = std::min(queries, keys);
      problem.segments.push_back({.query_begin = row,
                                  .query_count = count,
                                  .key_begin = key,
                                  .first_position = keys - count});
      row += count, key += keys;
    }
    const AttentionProblem actual = kDense.Run(problem);
    ExpectOtherRowsUntouched(problem, actual);
    ExpectGpuNear(actual, Twin(problem));
  }
}

// Sixteen parts of each sequence with two rows: 64 rows a part would take 4 MB.
TEST(BlockDenseAttentionGpuTest, BatchedDecodingTakesScratchForRowsThatThereAre) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kSequences = 8, kKeys = 8000;
  GpuContext gpu(int64_t{64} << 20, int64_t{1} << 20);
  std::vector<Segment> segments;
  for (int64_t i = 0; i < kSequences; ++i) {
    segments.push_back(
        {.query_begin = i, .query_count = 1, .key_begin = i * kKeys, .first_position = kKeys - 1});
  }
  const TensorView queries =
      gpu.Upload(TestTensor::Normal(DType::kFloat64, {kSequences, 2, 128}, 1));
  const TensorView keys = gpu.Zeros(DType::kBFloat16, {kSequences * kKeys, 1, 128});
  const TensorView out = gpu.Poisoned(DType::kBFloat16, {kSequences, 2, 128});
  ASSERT_TRUE(
      cuda::BlockDenseForward(
          gpu,
          {.q = queries, .k = keys, .v = keys, .segments = segments, .out = out, .logsumexp = {}})
          .ok());
  const TestTensor sums = gpu.Download(out);
  for (int64_t i = 0; i < sums.size(); ++i) ASSERT_EQ(sums.At(i), 0.0);
}

TEST(BlockDenseAttentionGpuTest, LogsumexpIsOptional) {
  SKIP_WITHOUT_GPU();
  const AttentionProblem with = RoundedAttention({.documents = {70}});
  AttentionProblem without = with;
  without.logsumexp = TestTensor();
  EXPECT_TRUE(BitwiseEqual(kDense.Run(with).out.View(), kDense.Run(without).out.View()));
}

TEST(BlockDenseAttentionGpuTest, HeadTooWideIsRefusedWithTheLimit) {
  SKIP_WITHOUT_GPU();
  ExpectWideHeadRefused(kDense);
}

}  // namespace
}  // namespace salamander
