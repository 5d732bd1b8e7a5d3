#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/lightning_attention.h"
#include "tests/gpu/long_stream.h"
#include "tests/kernels/lightning_problem.h"

namespace salamander {
namespace {

constexpr int64_t kTensorBytes = int64_t{256} << 20;

// Every operand of a matrix product is rounded to bf16 once, independently of the others, and each
// product of random signs keeps its relative error in the sum's root mean square. An output is a
// product with a copy of the state, itself a sum of rounded values, or with rounded scores, and is
// rounded itself: at most three roundings in quadrature. What is kept in fp32 adds nothing that
// shows. A stored state is a sum of values rounded once.
const double kOutputBound = std::sqrt(3.0) * kBFloat16Rounding;
constexpr double kStateBound = kBFloat16Rounding;
// Few queries take the recurrence in fp32: only the output is rounded.
constexpr double kStepBound = kBFloat16Rounding;

LightningProblem RoundedProblem(const LightningShape& shape) {
  LightningProblem problem = RandomLightningProblem(shape);
  for (TestTensor* tensor : {&problem.q, &problem.k, &problem.v, &problem.d_out}) {
    *tensor = Rounded(*tensor);
  }
  for (TestTensor* tensor : {&problem.states, &problem.d_states}) {
    if (!tensor->View().empty()) *tensor = tensor->As(DType::kFloat32).As(DType::kFloat64);
  }
  return problem;
}

TestTensor Untouched(const LightningProblem& problem) {
  const TensorView q = problem.q.View();
  return TestTensor::Constant(q.dtype(), {q.dim(0), q.dim(1), q.dim(2)}, kUntouched);
}

// The last rows of a tensor, as many as the problem has.
TestTensor DownloadEnd(GpuContext& gpu, const LightningProblem& problem, const TensorView& tensor) {
  const int64_t rows = problem.q.View().dim(0);
  return gpu.Download(tensor.Rows(tensor.dim(0) - rows, rows)).As(DType::kFloat64);
}

TestTensor DownloadStates(GpuContext& gpu, const TensorView& states) {
  return states.empty() ? TestTensor() : gpu.Download(states).As(DType::kFloat64);
}

// With the problem's rows behind `before` others.
LightningOutput ForwardOnGpu(GpuContext& gpu, const LightningProblem& problem, int64_t before = 0) {
  const auto upload = [&](const TestTensor& rows) { return UploadBehind(gpu, before, rows); };
  const TensorView out = upload(Untouched(problem));
  const TensorView states = gpu.Upload(problem.states, DType::kFloat32);
  const std::vector<Segment> segments = Behind(before, problem.segments);
  const absl::Status status = LightningForward(gpu, {.q = upload(problem.q),
                                                     .k = upload(problem.k),
                                                     .v = upload(problem.v),
                                                     .slopes = problem.slopes,
                                                     .segments = segments,
                                                     .scale = problem.scale,
                                                     .states = states,
                                                     .out = out});
  EXPECT_TRUE(status.ok()) << status;
  return {DownloadEnd(gpu, problem, out), DownloadStates(gpu, states)};
}

LightningGradients BackwardOnGpu(GpuContext& gpu, const LightningProblem& problem,
                                 int64_t before = 0) {
  const auto upload = [&](const TestTensor& rows) { return UploadBehind(gpu, before, rows); };
  const TensorView dq = upload(Untouched(problem));
  const TensorView dk = upload(Untouched(problem));
  const TensorView dv = upload(Untouched(problem));
  const TensorView d_states = gpu.Upload(problem.d_states, DType::kFloat32);
  const std::vector<Segment> segments = Behind(before, problem.segments);
  const absl::Status status =
      LightningBackward(gpu, {.q = upload(problem.q),
                              .k = upload(problem.k),
                              .v = upload(problem.v),
                              .slopes = problem.slopes,
                              .segments = segments,
                              .scale = problem.scale,
                              .states = gpu.Upload(problem.states, DType::kFloat32),
                              .d_states = d_states,
                              .d_out = upload(problem.d_out),
                              .dq = dq,
                              .dk = dk,
                              .dv = dv});
  EXPECT_TRUE(status.ok()) << status;
  return {DownloadEnd(gpu, problem, dq), DownloadEnd(gpu, problem, dk),
          DownloadEnd(gpu, problem, dv), DownloadStates(gpu, d_states)};
}

// Documents around the chunk of 64, of few tokens, and long enough to be cut into several runs;
// head dims that fill their tile and that do not.
std::vector<LightningShape> Shapes() {
  return {
      {.documents = {1}},
      {.documents = {9}, .heads = 1},
      {.documents = {1, 1, 1}, .has_states = true},
      {.documents = {63, 64, 65}, .dim = 32},
      {.documents = {64, 128, 1, 129, 127}, .has_states = true},
      {.documents = {3, 1, 9, 20, 2, 31}, .dim = 48, .has_states = true, .gap = 3},
      {.documents = {300, 1, 17}, .dim = 80, .has_states = true, .gap = 1},
      {.documents = {191, 66}, .heads = 7, .dim = 64},
      {.documents = {130}, .heads = 4, .dim = 128, .has_states = true},
      {.documents = {700}, .heads = 3, .dim = 112},
      {.documents = {1000, 5, 777}, .dim = 128, .has_states = true, .gap = 2},
      {.documents = {257, 3000}, .heads = 6, .dim = 64, .has_states = true},
      {.documents = {1500, 12, 1}, .dim = 96, .has_states = true},
      {.documents = {2600, 300, 65}, .dim = 128},
  };
}

std::string Describe(const LightningShape& shape) {
  return "documents " + testing::PrintToString(shape.documents) + " heads " +
         std::to_string(shape.heads) + " dim " + std::to_string(shape.dim);
}

double ErrorIn(const Segment& segment, const TestTensor& actual, const TestTensor& expected) {
  return RelativeRmse(actual.View().Rows(segment.query_begin, segment.query_count),
                      expected.View().Rows(segment.query_begin, segment.query_count));
}

// Rows of the documents only: those between them are poisoned.
void ExpectClose(const LightningProblem& problem, const TestTensor& actual,
                 const TestTensor& expected, const char* what) {
  for (const Segment& segment : problem.segments) {
    EXPECT_LE(ErrorIn(segment, actual, expected), kOutputBound)
        << what << " of " << segment.query_count << " tokens";
  }
}

void ExpectOutput(const LightningProblem& problem, const LightningOutput& actual,
                  const LightningOutput& expected) {
  ExpectClose(problem, actual.out, expected.out, "out");
  if (problem.states.View().empty()) return;
  EXPECT_LE(RelativeRmse(actual.states.View(), expected.states.View()), kStateBound);
}

void ExpectGradients(const LightningProblem& problem, const LightningGradients& actual,
                     const LightningGradients& expected) {
  ExpectClose(problem, actual.dq, expected.dq, "dq");
  ExpectClose(problem, actual.dk, expected.dk, "dk");
  ExpectClose(problem, actual.dv, expected.dv, "dv");
  if (problem.d_states.View().empty()) return;
  EXPECT_LE(RelativeRmse(actual.d_states.View(), expected.d_states.View()), kStateBound);
}

void AddToRows(const TestTensor& tensor, const Segment& segment, double amount) {
  const TensorView rows = tensor.View().Rows(segment.query_begin, segment.query_count);
  for (int64_t i = 0; i < rows.size(); ++i) SetElement(rows, i, ElementAt(rows, i) + amount);
}

TEST(LightningGpuTest, ForwardEqualsTheRecurrence) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  for (const LightningShape& shape : Shapes()) {
    SCOPED_TRACE(Describe(shape));
    const LightningProblem problem = RoundedProblem(shape);
    ExpectOutput(problem, ForwardOnGpu(gpu, problem), ReferenceForward(problem));
  }
}

TEST(LightningGpuTest, BackwardEqualsTheAdjointRecurrence) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  for (const LightningShape& shape : Shapes()) {
    SCOPED_TRACE(Describe(shape));
    const LightningProblem problem = RoundedProblem(shape);
    ExpectGradients(problem, BackwardOnGpu(gpu, problem), ReferenceBackward(problem));
  }
}

TEST(LightningGpuTest, EverySlopeEqualsTheRecurrenceByItself) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  for (const double slope : {0.0, 4e-8, 0x1p-8, 0.05, 0.25, 0.84, 7.75, 1000.0}) {
    SCOPED_TRACE(slope);
    for (const LightningShape& shape :
         {LightningShape{.documents = {2000, 70, 5}, .heads = 1, .dim = 64, .has_states = true},
          LightningShape{.documents = {2000, 70, 5}, .heads = 1, .dim = 128}}) {
      LightningProblem problem = RoundedProblem(shape);
      problem.slopes[0] = slope;
      ExpectOutput(problem, ForwardOnGpu(gpu, problem), ReferenceForward(problem));
      ExpectGradients(problem, BackwardOnGpu(gpu, problem), ReferenceBackward(problem));
    }
  }
}

// What a kernel drops weighs less than 2^-32 of a token's own: of tokens whose products are 2^16
// times those of the others, one in each chunk of a run, nothing that shows.
TEST(LightningGpuTest, WhatADecayDropsOfSpikesDoesNotShow) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  constexpr int64_t kTokens = 2700, kChunk = 64, kEvery = 5 * kChunk;
  // A spike is one product: its roundings are not averaged, and are up to twice the usual ones.
  const double bound = 2 * kOutputBound;
  for (const double slope : {0x1p-8, 0.05, 0.25, 0.84, 7.75}) {
    for (const bool has_states : {false, true}) {
      SCOPED_TRACE(testing::Message() << "slope " << slope << " states " << has_states);
      LightningProblem problem = RoundedProblem(
          {.documents = {kTokens}, .heads = 1, .dim = 128, .has_states = has_states});
      problem.slopes = {slope};
      for (const TestTensor* tensor : {&problem.q, &problem.k, &problem.v, &problem.d_out}) {
        for (int64_t token = kChunk - 1; token < kTokens; token += kEvery) {
          const TensorView row = tensor->View().Rows(token, 1);
          for (int64_t i = 0; i < row.size(); ++i) SetElement(row, i, 256 * ElementAt(row, i));
        }
      }
      const LightningOutput out = ForwardOnGpu(gpu, problem), exact_out = ReferenceForward(problem);
      const LightningGradients in = BackwardOnGpu(gpu, problem), exact = ReferenceBackward(problem);
      for (int64_t begin = 0; begin < kTokens; begin += kChunk) {
        const Segment chunk = {.query_begin = begin,
                               .query_count = std::min(kChunk, kTokens - begin)};
        EXPECT_LE(ErrorIn(chunk, out.out, exact_out.out), bound) << "out from " << begin;
        EXPECT_LE(ErrorIn(chunk, in.dq, exact.dq), bound) << "dq from " << begin;
        EXPECT_LE(ErrorIn(chunk, in.dk, exact.dk), bound) << "dk from " << begin;
        EXPECT_LE(ErrorIn(chunk, in.dv, exact.dv), bound) << "dv from " << begin;
      }
    }
  }
}

TEST(LightningGpuTest, LeavesRowsOutsideSegmentsAlone) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  constexpr int64_t kGap = 5;
  const LightningProblem problem = RoundedProblem({.documents = {70, 1, 33, 900}, .gap = kGap});
  const LightningOutput output = ForwardOnGpu(gpu, problem);
  const LightningGradients gradients = BackwardOnGpu(gpu, problem);
  for (const Segment& segment : problem.segments) {
    for (const TestTensor* tensor : {&output.out, &gradients.dq, &gradients.dk, &gradients.dv}) {
      const TensorView gap = tensor->View().Rows(segment.query_begin - kGap, kGap);
      for (int64_t i = 0; i < gap.size(); ++i) ASSERT_EQ(ElementAt(gap, i), kUntouched);
    }
  }
}

TEST(LightningGpuTest, EqualTokensWithoutDecayCountThemselvesExactly) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  constexpr int64_t kTokens = 256;  // a bf16 counts no further
  LightningProblem problem = RoundedProblem({.documents = {kTokens}, .heads = 1, .dim = 16});
  problem.q = problem.k = problem.v = TestTensor::Constant(DType::kFloat64, {kTokens, 1, 16}, 1.0);
  problem.scale = 1.0;
  const LightningOutput output = ForwardOnGpu(gpu, problem);
  for (int64_t t = 0; t < kTokens; ++t) {
    ASSERT_EQ(output.out.At(t * 16), 16.0 * static_cast<double>(t + 1)) << "token " << t;
  }
}

TEST(LightningGpuTest, LongDocumentEqualsTheRecurrence) {
  SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {kLongTokens, int64_t{1} << 20}) {
    SCOPED_TRACE(tokens);
    GpuContext gpu(int64_t{1} << 30, kTensorBytes);
    LightningProblem problem =
        RoundedProblem({.documents = {tokens}, .heads = 2, .dim = 16, .has_states = true});
    problem.slopes = {4e-8, 0x1p-8};
    ExpectOutput(problem, ForwardOnGpu(gpu, problem), ReferenceForward(problem));
    ExpectGradients(problem, BackwardOnGpu(gpu, problem), ReferenceBackward(problem));
  }
}

// A document that ends one chunk before the stream does, and fills it with the next.
TEST(LightningGpuTest, LongDocumentsThatMeetInTheLastChunkEqualTheRecurrence) {
  SKIP_WITHOUT_GPU_MEMORY(int64_t{3} << 30);
  for (const int64_t tokens : {int64_t{64} << 10, int64_t{128} << 10}) {
    SCOPED_TRACE(tokens);
    GpuContext gpu(int64_t{2} << 30, int64_t{1} << 29);
    LightningProblem problem =
        RoundedProblem({.documents = {tokens - 64, 64}, .heads = 2, .dim = 128});
    problem.slopes = {4e-8, 0x1p-8};
    ExpectOutput(problem, ForwardOnGpu(gpu, problem), ReferenceForward(problem));
    ExpectGradients(problem, BackwardOnGpu(gpu, problem), ReferenceBackward(problem));
  }
}

// With as many heads as a model has, a run is long enough to be summed in several pieces.
TEST(LightningGpuTest, LongRunsOfSeveralPiecesEqualTheRecurrence) {
  SKIP_WITHOUT_GPU_MEMORY(int64_t{6} << 30);
  GpuContext gpu(int64_t{4} << 30, int64_t{1} << 30);
  const LightningProblem problem = RoundedProblem({.documents = {17000}, .heads = 32, .dim = 128});
  ExpectOutput(problem, ForwardOnGpu(gpu, problem), ReferenceForward(problem));
  ExpectGradients(problem, BackwardOnGpu(gpu, problem), ReferenceBackward(problem));
}

// The first document begins before the stream's element 2^31 and ends behind it.
TEST(LightningGpuTest, LongStreamOffsetsEqualTheRecurrence) {
  constexpr int64_t kTensors = 7;
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const LightningProblem problem =
      RoundedProblem({.documents = {300, 23, 7}, .heads = 32, .dim = kLongWidth / 32});
  const int64_t before = kLongTokens - problem.q.View().dim(0);
  {
    GpuContext gpu(LongTensorBytes(kTensors), kTensorBytes);
    ExpectOutput(problem, ForwardOnGpu(gpu, problem, before), ReferenceForward(problem));
  }
  GpuContext gpu(LongTensorBytes(kTensors), kTensorBytes);
  ExpectGradients(problem, BackwardOnGpu(gpu, problem, before), ReferenceBackward(problem));
}

// One slot throughout; a piece of 700 tokens is cut into runs whose last one overwrites the slot
// that the first starts from.
TEST(LightningGpuTest, PrefillInPiecesEqualsTheWhole) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  LightningProblem piece = RoundedProblem({.documents = {1030}, .dim = 128, .has_states = true});
  const LightningOutput expected = ReferenceForward(piece);
  const Segment whole = piece.segments[0];
  int64_t begin = 0;
  for (const int64_t count : {65, 1, 63, 128, 2, 1, 700, 70}) {
    piece.segments = {{.query_begin = begin,
                       .query_count = count,
                       .first_position = begin,
                       .state_in = 0,
                       .state_out = 0}};
    const LightningOutput output = ForwardOnGpu(gpu, piece);
    piece.states = output.states;
    EXPECT_LE(ErrorIn(piece.segments[0], output.out, expected.out), kOutputBound) << count;
    begin += count;
  }
  ASSERT_EQ(begin, whole.query_count);
  EXPECT_LE(RelativeRmse(piece.states.View().Rows(0, 1), expected.states.View().Rows(1, 1)),
            kStateBound);
}

TEST(LightningGpuTest, BatchedDecodeStepsEqualTheRecurrence) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  constexpr int64_t kTokens = 29;
  for (const int64_t dim : {16, 48, 80, 128}) {
    for (const int64_t queries : {1, 3, 8}) {
      SCOPED_TRACE(testing::Message() << "dim " << dim << ", " << queries << " queries a step");
      LightningProblem step = RoundedProblem(
          {.documents = {kTokens, kTokens, kTokens}, .dim = dim, .has_states = true});
      const LightningOutput expected = ReferenceForward(step);
      const std::vector<Segment> documents = step.segments;
      const TestTensor actual = expected.out;
      for (int64_t t = 0; t < kTokens; t += queries) {
        step.segments.clear();
        for (int32_t document = 0; document < 3; ++document) {
          step.segments.push_back({.query_begin = document * kTokens + t,
                                   .query_count = std::min(queries, kTokens - t),
                                   .first_position = t,
                                   .state_in = 2 * document,
                                   .state_out = 2 * document});
        }
        const LightningOutput output = ForwardOnGpu(gpu, step);
        step.states = output.states;
        for (const Segment& segment : step.segments) {
          const TensorView from = output.out.View().Rows(segment.query_begin, segment.query_count);
          const TensorView to = actual.View().Rows(segment.query_begin, segment.query_count);
          std::copy_n(from.data<double>(), from.size(), to.data<double>());
        }
      }
      for (const Segment& document : documents) {
        EXPECT_LE(ErrorIn(document, actual, expected.out), kStepBound);
      }
      for (int64_t document = 0; document < 3; ++document) {
        // A state that is rounded to fp32 once a token.
        EXPECT_LE(RelativeRmse(step.states.View().Rows(2 * document, 1),
                               expected.states.View().Rows(2 * document + 1, 1)),
                  1e-6);
      }
    }
  }
}

TEST(LightningGpuTest, SegmentWithoutStateSlotsStartsFromZeroAndKeepsNothing) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  LightningProblem problem =
      RoundedProblem({.documents = {5, 1, 70, 600}, .dim = 32, .has_states = true});
  for (Segment& segment : problem.segments) segment.state_in = segment.state_out = -1;
  const LightningOutput output = ForwardOnGpu(gpu, problem);
  EXPECT_TRUE(BitwiseEqual(output.states.View(), problem.states.View()));
  problem.states = problem.d_states = TestTensor();
  EXPECT_TRUE(BitwiseEqual(output.out.View(), ForwardOnGpu(gpu, problem).out.View()));
}

TEST(LightningGpuTest, BackwardWithoutStateGradientsEqualsZeroOnes) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  LightningProblem problem =
      RoundedProblem({.documents = {70, 1, 600}, .dim = 32, .has_states = true});
  problem.d_states = TestTensor(DType::kFloat64, {6, 6, 32, 32});
  const LightningGradients expected = BackwardOnGpu(gpu, problem);
  problem.d_states = TestTensor();
  const LightningGradients actual = BackwardOnGpu(gpu, problem);
  EXPECT_TRUE(BitwiseEqual(actual.dq.View(), expected.dq.View()));
  // A start from zero differs from a zero start by the sign of zeros at most.
  EXPECT_EQ(MaxAbsDifference(actual.dk.View(), expected.dk.View()), 0);
  EXPECT_EQ(MaxAbsDifference(actual.dv.View(), expected.dv.View()), 0);
}

// A change to one document, or NaN in it, must not reach the others.
class LightningChangeGpuTest : public testing::TestWithParam<double> {
 protected:
  static void ExpectOthersBitIdentical(const LightningProblem& before, size_t changed) {
    SCOPED_TRACE(testing::Message() << "document " << changed);
    GpuContext gpu(4 * kTensorBytes, kTensorBytes);
    LightningProblem after = before;
    for (const TestTensor* tensor : {&after.q, &after.k, &after.v, &after.d_out}) {
      AddToRows(*tensor, before.segments[changed], GetParam());
    }
    const LightningOutput outputs[] = {ForwardOnGpu(gpu, before), ForwardOnGpu(gpu, after)};
    const LightningGradients gradients[] = {BackwardOnGpu(gpu, before), BackwardOnGpu(gpu, after)};
    for (size_t i = 0; i < before.segments.size(); ++i) {
      const Segment& segment = before.segments[i];
      const auto rows_equal = [&](const TestTensor& a, const TestTensor& b) -> bool {
        return BitwiseEqual(a.View().Rows(segment.query_begin, segment.query_count),
                            b.View().Rows(segment.query_begin, segment.query_count));
      };
      const auto slot_equal = [](const TestTensor& a, const TestTensor& b, int32_t slot) -> bool {
        return BitwiseEqual(a.View().Rows(slot, 1), b.View().Rows(slot, 1));
      };
      const bool is_same = i != changed;
      EXPECT_EQ(rows_equal(outputs[1].out, outputs[0].out), is_same) << i;
      EXPECT_EQ(rows_equal(gradients[1].dq, gradients[0].dq), is_same) << i;
      EXPECT_EQ(rows_equal(gradients[1].dk, gradients[0].dk), is_same) << i;
      EXPECT_EQ(rows_equal(gradients[1].dv, gradients[0].dv), is_same) << i;
      if (segment.state_out < 0) continue;
      EXPECT_EQ(slot_equal(outputs[1].states, outputs[0].states, segment.state_out), is_same) << i;
      EXPECT_EQ(slot_equal(gradients[1].d_states, gradients[0].d_states, segment.state_in), is_same)
          << i;
    }
  }
};

TEST_P(LightningChangeGpuTest, ChangedDocumentLeavesTheOthersBitIdentical) {
  SKIP_WITHOUT_GPU();
  for (const LightningShape& shape :
       {LightningShape{.documents = {70, 37, 1, 90, 700, 6}, .dim = 32, .has_states = true},
        LightningShape{.documents = {70, 37, 1, 1100, 6}, .heads = 32, .dim = 128}}) {
    SCOPED_TRACE(Describe(shape));
    const LightningProblem problem = RoundedProblem(shape);
    for (size_t i = 1; i < problem.segments.size(); ++i) ExpectOthersBitIdentical(problem, i);
  }
}

INSTANTIATE_TEST_SUITE_P(ByOneAndToNaN, LightningChangeGpuTest, testing::Values(1.0, std::nan("")));

TEST(LightningGpuTest, RepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(4 * kTensorBytes, kTensorBytes);
  for (const LightningShape& shape :
       {LightningShape{.documents = {2500}, .dim = 128, .has_states = true},
        LightningShape{.documents = {2500, 300}, .dim = 128},
        LightningShape{.documents = {64, 1, 900, 200}, .dim = 80, .has_states = true}}) {
    SCOPED_TRACE(Describe(shape));
    const LightningProblem problem = RoundedProblem(shape);
    const LightningOutput output = ForwardOnGpu(gpu, problem);
    const LightningGradients gradients = BackwardOnGpu(gpu, problem);
    for (int run = 0; run < 3; ++run) {
      const LightningOutput again = ForwardOnGpu(gpu, problem);
      EXPECT_TRUE(BitwiseEqual(again.out.View(), output.out.View()));
      EXPECT_TRUE(BitwiseEqual(again.states.View(), output.states.View()));
      const LightningGradients gradients_again = BackwardOnGpu(gpu, problem);
      EXPECT_TRUE(BitwiseEqual(gradients_again.dq.View(), gradients.dq.View()));
      EXPECT_TRUE(BitwiseEqual(gradients_again.dk.View(), gradients.dk.View()));
      EXPECT_TRUE(BitwiseEqual(gradients_again.dv.View(), gradients.dv.View()));
      EXPECT_TRUE(BitwiseEqual(gradients_again.d_states.View(), gradients.d_states.View()));
    }
  }
}

TEST(LightningGpuTest, OtherHeadDimsAndPlacesAreRefusedWithWhatIsBuilt) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  const std::vector<Segment> segments = {{.query_begin = 0, .query_count = 3}};
  const std::vector<double> slopes = {0.5};
  const auto expect_unimplemented = [&](const TensorView& tensor, const std::string& found,
                                        const char* expected, const char* remedy) {
    ExpectUnimplemented(LightningForward(gpu, {.q = tensor,
                                               .k = tensor,
                                               .v = tensor,
                                               .slopes = slopes,
                                               .segments = segments,
                                               .states = TensorView(),
                                               .out = tensor}),
                        {"LightningForward", found.c_str(), expected, remedy});
    ExpectUnimplemented(LightningBackward(gpu, {.q = tensor,
                                                .k = tensor,
                                                .v = tensor,
                                                .slopes = slopes,
                                                .segments = segments,
                                                .states = TensorView(),
                                                .d_states = TensorView(),
                                                .d_out = tensor,
                                                .dq = tensor,
                                                .dk = tensor,
                                                .dv = tensor}),
                        {"LightningBackward", found.c_str(), expected, remedy});
  };
  for (const int64_t dim : {8, 40, 144}) {
    expect_unimplemented(gpu.Zeros(DType::kBFloat16, {3, 1, dim}), std::to_string(dim),
                         "16 to 128 in steps of 16", "device: cpu");
  }
  const TensorView shifted = gpu.Zeros(DType::kBFloat16, {3 * 16 + 1}).Rows(1, 3 * 16);
  expect_unimplemented(shifted.Reshape({3, 1, 16}), "bfloat16[3, 1, 16]", "16 does not divide",
                       "take it from an arena");
}

}  // namespace
}  // namespace salamander
