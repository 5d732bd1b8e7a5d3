#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/lightning_states.h"
#include "tests/gpu/gpu_context.h"
#include "tests/kernels/lightning_problem.h"

namespace salamander {
namespace {

constexpr int64_t kTensorBytes = int64_t{1} << 30;

// A sum of values that are rounded to bf16 once, when they are weighted; few of them scatter about
// that by a tenth.
constexpr double kStateBound = 1.25 * kBFloat16Rounding;

// One document with slots 0 and 1, both zero.
LightningProblem OneDocument(int64_t tokens, int64_t heads, int64_t dim) {
  LightningProblem problem = RandomLightningProblem(
      {.documents = {tokens}, .heads = heads, .dim = dim, .seed = static_cast<uint64_t>(tokens)});
  for (TestTensor* tensor : {&problem.q, &problem.k, &problem.v, &problem.d_out})
    *tensor = Rounded(*tensor);
  problem.states = problem.d_states = TestTensor(DType::kFloat64, {2, heads, dim, dim});
  problem.segments[0].state_in = 0;
  problem.segments[0].state_out = 1;
  return problem;
}

TensorView Slot(const TestTensor& states, int64_t slot) {
  const TensorView row = states.View().Rows(slot, 1);
  return row.Reshape({row.dim(1), row.dim(2), row.dim(3)});
}

enum class Walk { kForwards, kReversed };

TestTensor EndState(GpuContext& gpu, const LightningProblem& problem, Walk walk) {
  const bool reversed = walk == Walk::kReversed;
  const TensorView q = problem.q.View();
  const TensorView state = gpu.Poisoned(DType::kFloat32, {q.dim(1), q.dim(2), q.dim(2)});
  const absl::Status status =
      LightningEndState(gpu, {.key = gpu.Upload(reversed ? problem.q : problem.k),
                              .value = gpu.Upload(reversed ? problem.d_out : problem.v),
                              .slopes = problem.slopes,
                              .scale = reversed ? problem.scale : 1.0,
                              .reversed = reversed,
                              .state = state});
  EXPECT_TRUE(status.ok()) << status;
  return gpu.Download(state).As(DType::kFloat64);
}

void ExpectTwinStates(GpuContext& gpu, const LightningProblem& problem) {
  const LightningOutput forward = ReferenceForward(problem);
  EXPECT_LE(RelativeRmse(EndState(gpu, problem, Walk::kForwards).View(), Slot(forward.states, 1)),
            kStateBound);
  const LightningGradients backward = ReferenceBackward(problem);
  EXPECT_LE(
      RelativeRmse(EndState(gpu, problem, Walk::kReversed).View(), Slot(backward.d_states, 0)),
      kStateBound);
}

TEST(LightningStatesGpuTest, EndStateEqualsWhatTheRecurrenceLeavesBehind) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  for (const int64_t tokens : {1, 9, 63, 64, 65, 511, 700, 1025, 3000}) {
    for (const int64_t dim : {16, 48, 64, 128}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, dim " << dim);
      ExpectTwinStates(gpu, OneDocument(tokens, 6, dim));
    }
  }
}

// Each head by itself: in the sum over heads a wrong one that decays fast would not show.
TEST(LightningStatesGpuTest, EverySlopeEqualsTheRecurrenceByItself) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  for (const double slope : {0.0, 4e-8, 0x1p-8, 0.05, 0.25, 0.84, 7.75, 1000.0}) {
    for (const int64_t tokens : {65, 577, 1700}) {
      SCOPED_TRACE(testing::Message() << "slope " << slope << ", " << tokens << " tokens");
      LightningProblem problem = OneDocument(tokens, 1, 64);
      problem.slopes[0] = slope;
      ExpectTwinStates(gpu, problem);
    }
  }
}

TEST(LightningStatesGpuTest, ManyPiecesOfALongDocumentEqualTheRecurrence) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  ExpectTwinStates(gpu, OneDocument(70000, 3, 16));
}

TEST(LightningStatesGpuTest, EndStateRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  const LightningProblem problem = OneDocument(5000, 6, 128);
  for (const Walk walk : {Walk::kForwards, Walk::kReversed}) {
    const TestTensor first = EndState(gpu, problem, walk);
    for (int run = 0; run < 3; ++run)
      EXPECT_TRUE(BitwiseEqual(EndState(gpu, problem, walk).View(), first.View()));
  }
}

TEST(LightningStatesGpuTest, StateSumReadsNoStateOfWeightZero) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kTensorBytes);
  for (const int64_t dim : {16, 80, 128}) {
    TestTensor states = TestTensor::Normal(DType::kFloat32, {3, 2, dim, dim}, 5);
    states.PoisonRows(1, 1);
    const std::vector<double> weights = {0.5, 1.0, 0.0, 0.0, 0.25, 0.0};
    const TensorView sum = gpu.Poisoned(DType::kFloat32, {2, dim, dim});
    ASSERT_TRUE(
        LightningStateSum(
            gpu, {.states = gpu.Upload(states, DType::kFloat32), .weights = weights, .sum = sum})
            .ok());
    const TestTensor actual = gpu.Download(sum);
    for (int64_t i = 0; i < dim * dim; ++i) {
      ASSERT_NEAR(actual.At(i), 0.5 * states.At(i) + 0.25 * states.At(4 * dim * dim + i), 1e-6);
      ASSERT_EQ(actual.At(dim * dim + i), states.At(dim * dim + i));
    }
  }
}

}  // namespace
}  // namespace salamander
