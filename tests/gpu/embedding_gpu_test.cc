#include <string>

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
  const TensorView tokens = gpu.Upload(p.tokens);
  const TensorView output = PoisonedLike(gpu, place, p.d_output);
  const TensorView d_table = Upload(gpu, place, p.table, DType::kFloat32);
  EXPECT_TRUE(EmbeddingForward(gpu, {tokens, Upload(gpu, place, p.table), output, kScale}).ok());
  EXPECT_TRUE(
      EmbeddingBackward(gpu, {tokens, Upload(gpu, place, p.d_output), d_table, kScale}).ok());
  return {gpu.Download(output), gpu.Download(d_table)};
}

Outputs RunInDouble(const Problem& p) {
  const TestContext cpu;
  const TestTensor output = p.d_output, d_table = p.table;
  EXPECT_TRUE(EmbeddingForward(cpu, {p.tokens.View(), p.table.View(), output.View(), kScale}).ok());
  EXPECT_TRUE(
      EmbeddingBackward(cpu, {p.tokens.View(), p.d_output.View(), d_table.View(), kScale}).ok());
  return {output, d_table};
}

void ExpectMatchesDouble(const Problem& problem) {
  const Outputs expected = RunInDouble(problem);
  for (const Place place : kBothPlaces) {
    GpuContext gpu(kTestBytes, kTestBytes);
    const Outputs actual = RunOnGpu(gpu, place, problem);
    ExpectWithin(actual[0], expected[0], BFloat16Bound(problem.d_output.size(), 1));
    ExpectWithin(actual[1], expected[1], Float32Bound(problem.tokens.size()));
    ExpectSameBits(RunOnGpu(gpu, place, problem), actual);
  }
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

// Runs that fill tiles of sorted rows, end at their edges, or cross several.
TEST(EmbeddingGpuTest, FrequentTokensAddUpAllTheirRows) {
  SKIP_WITHOUT_GPU();
  for (const int64_t run : {63, 64, 65, 128, 191, 1000}) {
    Problem problem = MakeProblem(3 * run + 5, 5, 40);
    for (int64_t t = 0; t < problem.tokens.size(); ++t) {
      const int64_t token = t / run;
      problem.tokens.Set(t, static_cast<double>(token));
    }
    SCOPED_TRACE(testing::Message() << "runs of " << run);
    ExpectMatchesDouble(problem);
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
    const TestTensor actual = gpu.Download(all);
    ExpectWithin(actual, output, BFloat16Bound(output.size(), 1));
    EXPECT_EQ(actual.At(150 * 40), 0.0);
    ExpectWithin(gpu.Download(d_table), gradient, Float32Bound(200));
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
