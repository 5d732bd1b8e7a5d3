#include "kernels/lightning_attention.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/lightning_problem.h"
#include "tests/support/finite_difference.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

constexpr DType kBothTypes[] = {DType::kFloat32, DType::kFloat64};

// Sums of at most 64 + dim products per chunk and a state rounded once per chunk: a few units of
// rounding in root mean square.
double Bound(DType dtype) {
  return dtype == DType::kFloat32 ? 1e-6 : 2e-15;
}

// Every case both passes are compared with the recurrence on.
std::vector<LightningShape> Shapes() {
  std::vector<LightningShape> shapes;
  for (const DType dtype : kBothTypes) {
    const std::vector<LightningShape> of_type = {
        {.documents = {1}, .dim = 1},
        {.documents = {1, 1, 1}, .has_states = true},
        {.documents = {63, 64, 65}, .dim = 32},
        {.documents = {64, 128, 1, 129, 127}, .has_states = true},
        {.documents = {3, 1, 9, 20, 2, 31}, .dim = 5, .has_states = true, .gap = 3},
        {.documents = {300, 1, 17}, .dim = 24, .has_states = true, .gap = 1},
        {.documents = {191, 66}, .heads = 7, .dim = 64},
        {.documents = {130}, .heads = 4, .dim = 130, .has_states = true},
        {.documents = {700}, .heads = 3, .dim = 40},
    };
    for (LightningShape shape : of_type) {
      shape.dtype = dtype;
      shapes.push_back(shape);
    }
  }
  return shapes;
}

std::string Describe(const LightningShape& shape) {
  return std::string(Name(shape.dtype)) + " documents " + testing::PrintToString(shape.documents) +
         " heads " + std::to_string(shape.heads) + " dim " + std::to_string(shape.dim);
}

// Rows of the documents only: those between them are poisoned.
double ErrorInDocuments(const LightningProblem& problem, const TestTensor& actual,
                        const TestTensor& expected) {
  double worst = 0;
  for (const Segment& segment : problem.segments) {
    const double error =
        RelativeRmse(actual.View().Rows(segment.query_begin, segment.query_count),
                     expected.View().Rows(segment.query_begin, segment.query_count));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

void AddToRows(const TestTensor& tensor, const Segment& segment, double amount) {
  const TensorView rows = tensor.View().Rows(segment.query_begin, segment.query_count);
  for (int64_t i = 0; i < rows.size(); ++i) SetElement(rows, i, ElementAt(rows, i) + amount);
}

TEST(LightningForwardTest, EqualsTheRecurrence) {
  for (const LightningShape& shape : Shapes()) {
    SCOPED_TRACE(Describe(shape));
    const LightningProblem problem = RandomLightningProblem(shape);
    const LightningOutput actual = RunForward(problem);
    const LightningOutput expected = ReferenceForward(problem);
    EXPECT_LE(ErrorInDocuments(problem, actual.out, expected.out), Bound(shape.dtype));
    if (shape.has_states) {
      EXPECT_LE(RelativeRmse(actual.states.View(), expected.states.View()), Bound(shape.dtype));
    }
  }
}

TEST(LightningBackwardTest, EqualsTheAdjointRecurrence) {
  for (const LightningShape& shape : Shapes()) {
    SCOPED_TRACE(Describe(shape));
    const LightningProblem problem = RandomLightningProblem(shape);
    const LightningGradients actual = RunBackward(problem);
    const LightningGradients expected = ReferenceBackward(problem);
    EXPECT_LE(ErrorInDocuments(problem, actual.dq, expected.dq), Bound(shape.dtype));
    EXPECT_LE(ErrorInDocuments(problem, actual.dk, expected.dk), Bound(shape.dtype));
    EXPECT_LE(ErrorInDocuments(problem, actual.dv, expected.dv), Bound(shape.dtype));
    if (shape.has_states) {
      EXPECT_LE(RelativeRmse(actual.d_states.View(), expected.d_states.View()), Bound(shape.dtype));
    }
  }
}

TEST(LightningForwardTest, EverySlopeEqualsTheRecurrenceByItself) {
  for (const double slope : {0.0, 4e-8, 0x1p-8, 0.25, 0.84, 7.75, 1000.0}) {
    SCOPED_TRACE(slope);
    LightningProblem problem = RandomLightningProblem(
        {.documents = {200, 70}, .heads = 1, .has_states = true, .dtype = DType::kFloat32});
    problem.slopes[0] = slope;
    const LightningOutput expected = ReferenceForward(problem);
    const LightningOutput actual = RunForward(problem);
    EXPECT_LE(ErrorInDocuments(problem, actual.out, expected.out), 1e-6);
    EXPECT_LE(RelativeRmse(actual.states.View(), expected.states.View()), 1e-6);
    const LightningGradients expected_gradients = ReferenceBackward(problem);
    const LightningGradients gradients = RunBackward(problem);
    EXPECT_LE(ErrorInDocuments(problem, gradients.dk, expected_gradients.dk), 1e-6);
    EXPECT_LE(RelativeRmse(gradients.d_states.View(), expected_gradients.d_states.View()), 1e-6);
  }
}

TEST(LightningForwardTest, LeavesRowsOutsideSegmentsAlone) {
  const LightningProblem problem = RandomLightningProblem({.documents = {70, 1, 33}, .gap = 5});
  const LightningOutput output = RunForward(problem);
  const LightningGradients gradients = RunBackward(problem);
  for (const Segment& segment : problem.segments) {
    for (const TestTensor* tensor : {&output.out, &gradients.dq, &gradients.dk, &gradients.dv}) {
      const TensorView gap = tensor->View().Rows(segment.query_begin - 5, 5);
      for (int64_t i = 0; i < gap.size(); ++i) ASSERT_EQ(ElementAt(gap, i), kUntouched);
    }
  }
}

TEST(LightningForwardTest, EqualTokensWithoutDecayCountThemselvesExactly) {
  LightningProblem problem =
      RandomLightningProblem({.documents = {1000}, .heads = 1, .dim = 8, .dtype = DType::kFloat32});
  problem.q = problem.k = problem.v = TestTensor::Constant(DType::kFloat32, {1000, 1, 8}, 1.0);
  problem.scale = 1.0;
  const LightningOutput output = RunForward(problem);
  for (int64_t t = 0; t < 1000; ++t)
    ASSERT_EQ(output.out.At(t * 8), 8.0 * (t + 1)) << "token " << t;
}

TEST(LightningForwardTest, LongDocumentEqualsTheRecurrence) {
  const LightningProblem problem = RandomLightningProblem(
      {.documents = {70000}, .heads = 2, .dim = 8, .has_states = true, .dtype = DType::kFloat32});
  // A state that never decays is rounded once in each of 1,094 chunks.
  const LightningOutput actual = RunForward(problem);
  const LightningOutput expected = ReferenceForward(problem);
  EXPECT_LE(RelativeRmse(actual.out.View(), expected.out.View()), 5e-6);
  EXPECT_LE(RelativeRmse(actual.states.View(), expected.states.View()), 5e-6);
  const LightningGradients gradients = RunBackward(problem);
  const LightningGradients expected_gradients = ReferenceBackward(problem);
  EXPECT_LE(RelativeRmse(gradients.dq.View(), expected_gradients.dq.View()), 5e-6);
  EXPECT_LE(RelativeRmse(gradients.dk.View(), expected_gradients.dk.View()), 5e-6);
  EXPECT_LE(RelativeRmse(gradients.dv.View(), expected_gradients.dv.View()), 5e-6);
}

TEST(LightningForwardTest, PrefillInPiecesEqualsTheWhole) {
  const LightningProblem whole =
      RandomLightningProblem({.documents = {330}, .dim = 12, .has_states = true});
  const LightningOutput expected = RunForward(whole);
  LightningProblem piece = whole;
  LightningOutput actual = {TestTensor(DType::kFloat64, {330, 6, 12}), whole.states};
  int64_t begin = 0;
  for (const int64_t count : {65, 1, 63, 128, 2, 1, 70}) {
    piece.segments = {{.query_begin = begin,
                       .query_count = count,
                       .first_position = begin,
                       .state_in = 0,
                       .state_out = 0}};
    piece.states = actual.states;
    const LightningOutput output = RunForward(piece);
    actual.states = output.states;
    for (int64_t i = begin * 72; i < (begin + count) * 72; ++i) actual.out.Set(i, output.out.At(i));
    begin += count;
  }
  ASSERT_EQ(begin, 330);
  EXPECT_LE(RelativeRmse(actual.out.View(), expected.out.View()), 1e-14);
  EXPECT_LE(RelativeRmse(actual.states.View().Rows(0, 1), expected.states.View().Rows(1, 1)),
            1e-14);
}

TEST(LightningForwardTest, BatchedDecodeStepsEqualPrefill) {
  const int64_t tokens = 67;
  const LightningProblem prefill = RandomLightningProblem(
      {.documents = {tokens, tokens, tokens}, .dim = 10, .has_states = true});
  const LightningOutput expected = RunForward(prefill);
  LightningProblem step = prefill;
  LightningOutput actual = {TestTensor(DType::kFloat64, {3 * tokens, 6, 10}), TestTensor()};
  for (int64_t t = 0; t < tokens; ++t) {
    step.segments.clear();
    for (int32_t document = 0; document < 3; ++document) {
      step.segments.push_back({.query_begin = document * tokens + t,
                               .query_count = 1,
                               .first_position = t,
                               .state_in = 2 * document,
                               .state_out = 2 * document});
    }
    const LightningOutput output = RunForward(step);
    step.states = output.states;
    for (const Segment& segment : step.segments) {
      for (int64_t i = segment.query_begin * 60; i < (segment.query_begin + 1) * 60; ++i) {
        actual.out.Set(i, output.out.At(i));
      }
    }
  }
  EXPECT_LE(RelativeRmse(actual.out.View(), expected.out.View()), 1e-14);
  for (int64_t document = 0; document < 3; ++document) {
    EXPECT_LE(RelativeRmse(step.states.View().Rows(2 * document, 1),
                           expected.states.View().Rows(2 * document + 1, 1)),
              1e-14);
  }
}

TEST(LightningForwardTest, SegmentWithoutStateSlotsStartsFromZeroAndKeepsNothing) {
  LightningProblem problem = RandomLightningProblem({.documents = {5, 1, 70}, .has_states = true});
  for (Segment& segment : problem.segments) segment.state_in = segment.state_out = -1;
  const LightningOutput output = RunForward(problem);
  EXPECT_TRUE(BitwiseEqual(output.states.View(), problem.states.View()));
  problem.states = problem.d_states = TestTensor();
  EXPECT_TRUE(BitwiseEqual(output.out.View(), RunForward(problem).out.View()));
}

TEST(LightningBackwardTest, MatchesFiniteDifferences) {
  const LightningProblem problem =
      RandomLightningProblem({.documents = {66, 1, 5}, .dim = 3, .has_states = true});
  const auto forward = [&] {
    const LightningOutput output = RunForward(problem);
    double sum = Dot(output.out.View(), problem.d_out.View());
    for (const Segment& segment : problem.segments) {
      sum += Dot(output.states.View().Rows(segment.state_out, 1),
                 problem.d_states.View().Rows(segment.state_out, 1));
    }
    return sum;
  };
  const LightningGradients gradients = RunBackward(problem);
  // The op is linear in each input: a wide step has no truncation error and little rounding.
  const FiniteDifferenceOptions options = {.step = 1e-2, .tolerance = 1e-8, .samples = 60};
  EXPECT_TRUE(MatchesFiniteDifferences(forward, problem.q.View(), gradients.dq.View(), options));
  EXPECT_TRUE(MatchesFiniteDifferences(forward, problem.k.View(), gradients.dk.View(), options));
  EXPECT_TRUE(MatchesFiniteDifferences(forward, problem.v.View(), gradients.dv.View(), options));
  for (const Segment& segment : problem.segments) {
    EXPECT_TRUE(MatchesFiniteDifferences(forward, problem.states.View().Rows(segment.state_in, 1),
                                         gradients.d_states.View().Rows(segment.state_in, 1),
                                         {.step = 1e-2, .tolerance = 1e-8, .samples = 30}));
  }
}

TEST(LightningBackwardTest, WithoutStateGradientsEqualsZeroOnes) {
  LightningProblem problem =
      RandomLightningProblem({.documents = {70, 1, 64}, .dim = 6, .has_states = true});
  problem.d_states = TestTensor(DType::kFloat64, {6, 6, 6, 6});
  const LightningGradients expected = RunBackward(problem);
  problem.d_states = TestTensor();
  const LightningGradients actual = RunBackward(problem);
  EXPECT_LE(RelativeRmse(actual.dq.View(), expected.dq.View()), 1e-15);
  EXPECT_LE(RelativeRmse(actual.dk.View(), expected.dk.View()), 1e-15);
  EXPECT_LE(RelativeRmse(actual.dv.View(), expected.dv.View()), 1e-15);
}

TEST(LightningBackwardTest, ChangedDocumentLeavesTheOthersBitIdentical) {
  const LightningProblem before = RandomLightningProblem(
      {.documents = {70, 37, 1, 90}, .has_states = true, .dtype = DType::kFloat32});
  LightningProblem after = before;
  for (const TestTensor* tensor : {&after.q, &after.k, &after.v, &after.d_out}) {
    AddToRows(*tensor, before.segments[1], 1.0);
  }
  const LightningOutput outputs[] = {RunForward(before), RunForward(after)};
  const LightningGradients gradients[] = {RunBackward(before), RunBackward(after)};
  for (size_t i = 0; i < before.segments.size(); ++i) {
    const Segment& segment = before.segments[i];
    const auto rows_equal = [&](const TestTensor& a, const TestTensor& b) -> bool {
      return BitwiseEqual(a.View().Rows(segment.query_begin, segment.query_count),
                          b.View().Rows(segment.query_begin, segment.query_count));
    };
    const auto slot_equal = [](const TestTensor& a, const TestTensor& b, int32_t slot) -> bool {
      return BitwiseEqual(a.View().Rows(slot, 1), b.View().Rows(slot, 1));
    };
    const bool is_same = i != 1;
    EXPECT_EQ(rows_equal(outputs[1].out, outputs[0].out), is_same) << i;
    EXPECT_EQ(rows_equal(gradients[1].dq, gradients[0].dq), is_same) << i;
    EXPECT_EQ(rows_equal(gradients[1].dk, gradients[0].dk), is_same) << i;
    EXPECT_EQ(rows_equal(gradients[1].dv, gradients[0].dv), is_same) << i;
    EXPECT_EQ(slot_equal(outputs[1].states, outputs[0].states, segment.state_out), is_same) << i;
    EXPECT_EQ(slot_equal(gradients[1].d_states, gradients[0].d_states, segment.state_in), is_same)
        << i;
  }
}

TEST(LightningBackwardTest, ThreadCountDoesNotChangeABit) {
  const std::vector<LightningShape> shapes = {
      {.documents = {1000}, .heads = 1, .has_states = true},  // split in runs of chunks
      {.documents = {700, 20, 1, 300}, .heads = 3, .dim = 20, .has_states = true},
      {.documents = {64, 65, 1, 63, 5}, .has_states = true},
  };
  for (LightningShape shape : shapes) {
    for (const DType dtype : kBothTypes) {
      shape.dtype = dtype;
      SCOPED_TRACE(Describe(shape));
      const LightningProblem problem = RandomLightningProblem(shape);
      LightningOutput output;
      LightningGradients gradients;
      {
        const ScopedThreadCount one(1);
        output = RunForward(problem);
        gradients = RunBackward(problem);
      }
      for (const int threads : {1, 2, 5}) {
        const ScopedThreadCount count(threads);
        const LightningOutput again = RunForward(problem);
        const LightningGradients gradients_again = RunBackward(problem);
        EXPECT_TRUE(BitwiseEqual(again.out.View(), output.out.View())) << threads;
        EXPECT_TRUE(BitwiseEqual(again.states.View(), output.states.View())) << threads;
        EXPECT_TRUE(BitwiseEqual(gradients_again.dq.View(), gradients.dq.View())) << threads;
        EXPECT_TRUE(BitwiseEqual(gradients_again.dk.View(), gradients.dk.View())) << threads;
        EXPECT_TRUE(BitwiseEqual(gradients_again.dv.View(), gradients.dv.View())) << threads;
        EXPECT_TRUE(BitwiseEqual(gradients_again.d_states.View(), gradients.d_states.View()))
            << threads;
      }
    }
  }
}

}  // namespace
}  // namespace salamander
