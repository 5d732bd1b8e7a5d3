#include "kernels/embedding.h"

#include <cstdint>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/reference/embedding.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor tokens;    // [T]
  TestTensor table;     // [V, C]
  TestTensor d_output;  // [T, C]
  double scale = 0.7;
};

// Twelve rows of vocabulary, so that tokens repeat.
Problem MakeProblem(DType dtype, int64_t tokens, int64_t width) {
  return {.tokens = TestTensor::Integers({tokens}, 1, 0, 11),
          .table = TestTensor::Normal(dtype, {12, width}, 2),
          .d_output = TestTensor::Normal(dtype, {tokens, width}, 3)};
}

// Output, and a gradient added to the table.
Outputs RunOp(const Problem& p) {
  const TestContext context;
  const TensorView rows = p.d_output.View();
  const TestTensor output = TestTensor::Poisoned(rows.dtype(), {rows.dim(0), rows.dim(1)});
  const TestTensor d_table = p.table;
  EXPECT_TRUE(
      EmbeddingForward(context, {p.tokens.View(), p.table.View(), output.View(), p.scale}).ok());
  EXPECT_TRUE(EmbeddingBackward(context, {p.tokens.View(), rows, d_table.View(), p.scale}).ok());
  return {output, d_table};
}

Outputs RunReference(const Problem& p) {
  const TestTensor table = p.table.As(DType::kFloat64), rows = p.d_output.As(DType::kFloat64);
  const TestTensor output = rows, d_table = table;
  reference::EmbeddingForward({p.tokens.View(), table.View(), output.View(), p.scale});
  reference::EmbeddingBackward({p.tokens.View(), rows.View(), d_table.View(), p.scale});
  return {output, d_table};
}

TEST(EmbeddingTest, MatchesReference) {
  for (const DType dtype : kBothTypes) {
    for (const int64_t tokens : {1, 7, 130}) {
      for (const int64_t width : {1, 3, 17, 64, 100}) {
        const Problem problem = MakeProblem(dtype, tokens, width);
        ExpectClose(RunOp(problem), RunReference(problem), Bound(dtype, tokens));
      }
    }
  }
}

TEST(EmbeddingTest, SameBitsOnAnyThreads) {
  const Problem problem = MakeProblem(DType::kFloat32, 130, 300);
  ExpectSameBitsOnAnyThreads([&] { return RunOp(problem); });
}

TEST(EmbeddingTest, TokenOutsideTheVocabularyIsNamedAndNothingIsWritten) {
  const TestContext context;
  for (const int32_t bad : {-1, 12}) {
    Problem p = MakeProblem(DType::kFloat32, 7, 3);
    p.tokens.Set(5, bad);
    const TestTensor output = TestTensor::Constant(DType::kFloat32, {7, 3}, 9.0);
    const absl::Status forward =
        EmbeddingForward(context, {p.tokens.View(), p.table.View(), output.View()});
    EXPECT_EQ(forward.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(forward.message()), testing::HasSubstr("tokens[5]"));
    EXPECT_THAT(std::string(forward.message()), testing::HasSubstr(std::to_string(bad)));
    ExpectSameBits({output}, {TestTensor::Constant(DType::kFloat32, {7, 3}, 9.0)});
    const TestTensor d_table = p.table;
    EXPECT_FALSE(
        EmbeddingBackward(context, {p.tokens.View(), p.d_output.View(), d_table.View()}).ok());
    ExpectSameBits({d_table}, {p.table});
  }
}

TEST(EmbeddingTest, PartsOfTheTableGiveTheWholesRowsAndZerosElsewhere) {
  constexpr int64_t kTokens = 130, kWidth = 17, kRows = 4;  // of a part
  const TestContext context;
  const Problem p = MakeProblem(DType::kFloat32, kTokens, kWidth);
  const Outputs whole = RunOp(p);
  for (int64_t first = 0; first < 12; first += kRows) {
    const EmbeddingPart part{.first_token = first, .vocabulary = 12};
    const TestTensor output = TestTensor::Poisoned(DType::kFloat32, {kTokens, kWidth});
    const TestTensor d_table = p.table;
    const TensorView d_part = d_table.View().Rows(first, kRows);
    ASSERT_TRUE(EmbeddingForward(context, {p.tokens.View(), p.table.View().Rows(first, kRows),
                                           output.View(), p.scale, part})
                    .ok());
    ASSERT_TRUE(
        EmbeddingBackward(context, {p.tokens.View(), p.d_output.View(), d_part, p.scale, part})
            .ok());
    const TestTensor zeros(DType::kFloat32, {1, kWidth});
    for (int64_t t = 0; t < kTokens; ++t) {
      const auto token = static_cast<int64_t>(p.tokens.At(t));
      const bool is_here = token >= first && token < first + kRows;
      EXPECT_TRUE(BitwiseEqual(output.View().Rows(t, 1),
                               is_here ? whole[0].View().Rows(t, 1) : zeros.View()))
          << "row " << t << " from " << first;
    }
    EXPECT_TRUE(BitwiseEqual(d_part, whole[1].View().Rows(first, kRows)));
  }
}

TEST(EmbeddingTest, TokenOutsideTheWholeTableIsNamedByEveryPart) {
  const TestContext context;
  for (const int32_t bad : {-1, 12}) {
    Problem p = MakeProblem(DType::kFloat32, 7, 3);
    p.tokens.Set(5, bad);
    for (int64_t first = 0; first < 12; first += 4) {
      const absl::Status status = EmbeddingForward(
          context,
          {p.tokens.View(), p.table.View().Rows(first, 4), p.d_output.View(), 1.0, {first, 12}});
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("tokens[5]"));
    }
  }
}

TEST(EmbeddingTest, RowsOfUnusedTokensAreNotRead) {
  Problem problem = MakeProblem(DType::kFloat32, 7, 17);
  for (int64_t t = 0; t < 7; ++t) problem.tokens.Set(t, t % 3);
  problem.table.PoisonRows(3, 9);
  const TestContext context;
  const TestTensor output = TestTensor::Poisoned(DType::kFloat32, {7, 17});
  ASSERT_TRUE(
      EmbeddingForward(context, {problem.tokens.View(), problem.table.View(), output.View()}).ok());
  for (int64_t i = 0; i < output.size(); ++i) EXPECT_EQ(output.At(i), output.At(i)) << i;
}

}  // namespace
}  // namespace salamander
