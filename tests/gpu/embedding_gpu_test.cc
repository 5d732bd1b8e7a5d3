#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/embedding.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

constexpr double kScale = 0.7;

struct Problem {
  TestTensor tokens;    // [T]
  TestTensor table;     // [V, C]
  TestTensor d_output;  // [T, C]
};

Problem MakeProblem(int64_t tokens, int64_t vocabulary, int64_t width) {
  return {.tokens = TestTensor::Integers({tokens}, 1, 0, vocabulary - 1),
          .table = Rounded(TestTensor::Normal(DType::kFloat64, {vocabulary, width}, 2)),
          .d_output = Rounded(TestTensor::Normal(DType::kFloat64, {tokens, width}, 3))};
}

// Output, and a gradient added to the table.
Outputs RunOnGpu(GpuContext& gpu, Place place, const Problem& p) {
  const TensorView tokens = UploadRows(gpu, place, p.tokens);
  const TensorView output = PoisonedRows(gpu, place, p.d_output);
  const TensorView d_table = Upload(gpu, place, p.table, DType::kFloat32);
  EXPECT_TRUE(EmbeddingForward(gpu, {tokens, Upload(gpu, place, p.table), output, kScale}).ok());
  EXPECT_TRUE(
      EmbeddingBackward(gpu, {tokens, UploadRows(gpu, place, p.d_output), d_table, kScale}).ok());
  return {DownloadRows(gpu, place, output), gpu.Download(d_table)};
}

Outputs RunInDouble(const Problem& p) {
  const TestContext cpu;
  const TestTensor output = p.d_output, d_table = p.table;
  EXPECT_TRUE(EmbeddingForward(cpu, {p.tokens.View(), p.table.View(), output.View(), kScale}).ok());
  EXPECT_TRUE(
      EmbeddingBackward(cpu, {p.tokens.View(), p.d_output.View(), d_table.View(), kScale}).ok());
  return {output, d_table};
}

std::vector<double> Bounds(const Problem& p) {
  return {BFloat16Bound(p.d_output.size(), 1), Float32Bound(p.tokens.size())};
}

void ExpectMatchesDouble(const Problem& problem) {
  ExpectMatchesAndRepeats(
      [&](GpuContext& gpu, Place place) { return RunOnGpu(gpu, place, problem); },
      RunInDouble(problem), Bounds(problem));
}

TEST(EmbeddingGpuTest, MatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {1, 7, 64, 65, 700}) {
    for (const int64_t vocabulary : {1, 12, 3000}) {
      for (const int64_t width : {1, 17, 64, 1032}) {
        SCOPED_TRACE(testing::Message() << tokens << " of " << vocabulary << " x " << width);
        ExpectMatchesDouble(MakeProblem(tokens, vocabulary, width));
      }
    }
  }
}

TEST(EmbeddingGpuTest, PartsOfTheTableGiveTheWholesRowsAndZerosElsewhere) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kParts = 3;
  for (const int64_t vocabulary : {12, 3000}) {
    for (const int64_t width : {17, 1032}) {
      const Problem p = MakeProblem(700, vocabulary, width);
      const int64_t rows = vocabulary / kParts;
      GpuContext gpu(kTestBytes, kTestBytes);
      const Outputs whole = RunOnGpu(gpu, Place::kAligned, p);
      const TensorView tokens = gpu.Upload(p.tokens), table = gpu.Upload(p.table);
      const TensorView d_output = gpu.Upload(p.d_output);
      const TensorView d_table = gpu.Upload(p.table, DType::kFloat32);
      const TestTensor zeros(DType::kBFloat16, {1, width});
      for (int64_t first = 0; first < vocabulary; first += rows) {
        const EmbeddingPart part{.first_token = first, .vocabulary = vocabulary};
        const TensorView output = PoisonedRows(gpu, Place::kAligned, p.d_output);
        ASSERT_TRUE(
            EmbeddingForward(gpu, {tokens, table.Rows(first, rows), output, kScale, part}).ok());
        ASSERT_TRUE(
            EmbeddingBackward(gpu, {tokens, d_output, d_table.Rows(first, rows), kScale, part})
                .ok());
        const TestTensor actual = gpu.Download(output);
        for (int64_t t = 0; t < p.tokens.size(); ++t) {
          const auto token = static_cast<int64_t>(p.tokens.At(t));
          const bool is_here = token >= first && token < first + rows;
          ASSERT_TRUE(BitwiseEqual(actual.View().Rows(t, 1),
                                   is_here ? whole[0].View().Rows(t, 1) : zeros.View()))
              << "row " << t << " from " << first;
        }
      }
      // A frequent token's rows are cut into tiles elsewhere, and its sums added in another order.
      ExpectWithin({gpu.Download(d_table)}, {whole[1]}, {Float32Bound(p.tokens.size())});
    }
  }
}

// As wide as the norms go, and as many tokens as tokenizers have.
TEST(EmbeddingGpuTest, WidestRowsAndLargestVocabularyMatchDouble) {
  SKIP_WITHOUT_GPU();
  ExpectMatchesDouble(MakeProblem(70, 5, 16384));
  ExpectMatchesDouble(MakeProblem(3000, 262'144, 8));
}

// The rows that the sample leaves out hold token 0 and no gradient: a run through thousands of
// tiles.
TEST(EmbeddingGpuTest, LongStreamMatchesDouble) {
  constexpr int64_t kTensors = 2;
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const Problem problem = MakeProblem(kSampledRows, 12, kLongWidth);
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return RunOnGpu(gpu, place, problem); }, kTensors,
      RunInDouble(problem), Bounds(problem));
}

// It is the vocabulary's rows that reach beyond element 2^31.
TEST(EmbeddingGpuTest, LongTableMatchesDouble) {
  constexpr int64_t kTensors = 3;  // one in fp32 counts twice
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const Problem problem = MakeProblem(100, kSampledRows, kLongWidth);
  GpuContext gpu(LongTensorBytes(kTensors), kLongScratchBytes);
  TestTensor tokens = problem.tokens;
  for (int64_t t = 0; t < tokens.size(); ++t) {
    tokens.Set(t, static_cast<double>(LongRow(static_cast<int64_t>(tokens.At(t)))));
  }
  const TensorView device_tokens = gpu.Upload(tokens);
  const TensorView output = gpu.Poisoned(DType::kBFloat16, {tokens.size(), kLongWidth});
  const TensorView d_table = UploadSample(gpu, problem.table, DType::kFloat32);
  ASSERT_TRUE(
      EmbeddingForward(gpu, {device_tokens, UploadSample(gpu, problem.table), output, kScale})
          .ok());
  ASSERT_TRUE(
      EmbeddingBackward(gpu, {device_tokens, gpu.Upload(problem.d_output), d_table, kScale}).ok());
  ExpectWithin({gpu.Download(output), DownloadSample(gpu, d_table)}, RunInDouble(problem),
               Bounds(problem));
}

// Runs that fill tiles of sorted rows, end at their edges, or cross several.
TEST(EmbeddingGpuTest, FrequentTokensAddUpAllTheirRows) {
  SKIP_WITHOUT_GPU();
  for (const int64_t run : {63, 64, 65, 128, 191, 1000}) {
    for (const int64_t width : {40, 2056}) {
      Problem problem = MakeProblem(3 * run + 5, 5, width);
      for (int64_t t = 0; t < problem.tokens.size(); ++t) {
        const int64_t token = t / run;
        problem.tokens.Set(t, static_cast<double>(token));
      }
      SCOPED_TRACE(testing::Message() << "runs of " << run << ", width " << width);
      ExpectMatchesDouble(problem);
    }
  }
}

// So many that a block orders its rows in several rounds; vocabularies of one, two and three
// digits.
TEST(EmbeddingGpuTest, ManyTokensOfAnyVocabularyMatchDouble) {
  SKIP_WITHOUT_GPU();
  for (const int64_t vocabulary : {500, 70'000, 300'000}) {
    SCOPED_TRACE(vocabulary);
    ExpectMatchesDouble(MakeProblem(300'000, vocabulary, 8));
  }
}

TEST(EmbeddingGpuTest, TokenOutsideTheVocabularyIsNamedAndLeftOut) {
  SKIP_WITHOUT_GPU();
  for (const int32_t bad : {-1, 12, 1 << 30}) {
    Problem problem = MakeProblem(200, 12, 40);
    GpuContext gpu(kTestBytes, kTestBytes);
    const TensorView all = gpu.Poisoned(DType::kBFloat16, {200, 40});
    problem.tokens.Set(150, bad);
    const TensorView tokens = gpu.Upload(problem.tokens);
    const TensorView d_table = gpu.Zeros(DType::kFloat32, {12, 40});
    ASSERT_TRUE(EmbeddingForward(gpu, {tokens, gpu.Upload(problem.table), all, kScale}).ok());
    const absl::Status forward = gpu.Wait();
    EXPECT_EQ(forward.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(forward.message()), testing::HasSubstr("150"));
    EXPECT_THAT(std::string(forward.message()), testing::HasSubstr(std::to_string(bad)));
    ASSERT_TRUE(
        EmbeddingBackward(gpu, {tokens, gpu.Upload(problem.d_output), d_table, kScale}).ok());
    EXPECT_EQ(gpu.Wait().code(), absl::StatusCode::kInvalidArgument);

    // As if the row had held a known token, but neither its own row nor its gradient.
    problem.tokens.Set(150, 3);
    for (int64_t c = 0; c < 40; ++c) problem.d_output.Set(150 * 40 + c, 0.0);
    const TestContext cpu;
    TestTensor output = problem.d_output, gradient(DType::kFloat64, {12, 40});
    ASSERT_TRUE(
        EmbeddingForward(cpu, {problem.tokens.View(), problem.table.View(), output.View(), kScale})
            .ok());
    ASSERT_TRUE(EmbeddingBackward(
                    cpu, {problem.tokens.View(), problem.d_output.View(), gradient.View(), kScale})
                    .ok());
    for (int64_t c = 0; c < 40; ++c) output.Set(150 * 40 + c, 0.0);
    const Outputs actual = {gpu.Download(all), gpu.Download(d_table)};
    ExpectWithin(actual, {output, gradient}, Bounds(problem));
    EXPECT_EQ(actual[0].At(150 * 40), 0.0);
  }
}

TEST(EmbeddingGpuTest, RowsOfUnusedTokensAreNeitherReadNorWritten) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem(300, 12, 40);
  for (int64_t t = 0; t < 300; ++t) problem.tokens.Set(t, t % 3);
  problem.table.PoisonRows(3, 9);
  GpuContext gpu(kTestBytes, kTestBytes);
  const TestTensor before = gpu.Download(gpu.Upload(problem.table, DType::kFloat32));
  const Outputs actual = RunOnGpu(gpu, Place::kAligned, problem);
  for (int64_t i = 0; i < actual[0].size(); ++i) EXPECT_EQ(actual[0].At(i), actual[0].At(i)) << i;
  EXPECT_TRUE(BitwiseEqual(actual[1].View().Rows(3, 9), before.View().Rows(3, 9)));
}

}  // namespace
}  // namespace salamander
