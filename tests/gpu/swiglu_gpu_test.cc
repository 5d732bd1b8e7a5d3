#include <gtest/gtest.h>

#include "kernels/swiglu.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor gate, up, d_output;
};

// Gates up to twenty deviations out, where the exponential is far from one on either side.
Problem MakeProblem(const RowShape& s) {
  return {Rounded(TestTensor::Uniform(DType::kFloat64, {s.tokens, s.width}, 1, -20.0, 20.0)),
          Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 2)),
          Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 3))};
}

// y, d_gate, d_up and y again.
Outputs RunOnGpu(GpuContext& gpu, Place place, const Problem& p) {
  const TensorView gate = Upload(gpu, place, p.gate), up = Upload(gpu, place, p.up);
  const TensorView y = PoisonedLike(gpu, place, p.gate), again = PoisonedLike(gpu, place, p.gate);
  const TensorView d_gate = PoisonedLike(gpu, place, p.gate);
  const TensorView d_up = PoisonedLike(gpu, place, p.gate);
  EXPECT_TRUE(SwigluForward(gpu, {gate, up, y}).ok());
  EXPECT_TRUE(
      SwigluBackward(gpu, {gate, up, Upload(gpu, place, p.d_output), d_gate, d_up, again}).ok());
  return {gpu.Download(y), gpu.Download(d_gate), gpu.Download(d_up), gpu.Download(again)};
}

Outputs RunInDouble(const Problem& p) {
  const TestContext cpu;
  const TestTensor y = p.gate, d_gate = p.gate, d_up = p.gate, again = p.gate;
  EXPECT_TRUE(SwigluForward(cpu, {p.gate.View(), p.up.View(), y.View()}).ok());
  EXPECT_TRUE(SwigluBackward(cpu, {p.gate.View(), p.up.View(), p.d_output.View(), d_gate.View(),
                                   d_up.View(), again.View()})
                  .ok());
  return {y, d_gate, d_up, again};
}

TEST(SwigluGpuTest, MatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : kRowShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.width);
    const Problem problem = MakeProblem(shape);
    const Outputs expected = RunInDouble(problem);
    for (const Place place : kBothPlaces) {
      GpuContext gpu(kTestBytes, kTestBytes);
      const Outputs actual = RunOnGpu(gpu, place, problem);
      for (size_t i = 0; i < actual.size(); ++i) {
        ExpectWithin(actual[i], expected[i], BFloat16Bound(problem.gate.size(), 1));
      }
      ExpectSameBits(RunOnGpu(gpu, place, problem), actual);
    }
  }
}

TEST(SwigluGpuTest, GradientsMayReplaceWhatTheyAreMadeFrom) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem({67, 2056});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs expected = RunOnGpu(gpu, Place::kAligned, problem);
  const TensorView gate = gpu.Upload(problem.gate), d_output = gpu.Upload(problem.d_output);
  ASSERT_TRUE(
      SwigluBackward(gpu, {gate, gpu.Upload(problem.up), d_output, gate, d_output, {}}).ok());
  ExpectSameBits({gpu.Download(gate), gpu.Download(d_output)}, {expected[1], expected[2]});
}

TEST(SwigluGpuTest, SaturatedGatesStayFinite) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem({1, 8});
  for (int64_t i = 0; i < 8; ++i) problem.gate.Set(i, i % 2 == 0 ? 1000.0 : -1000.0);
  problem.gate = Rounded(problem.gate);
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs actual = RunOnGpu(gpu, Place::kAligned, problem);
  const Outputs expected = RunInDouble(problem);
  for (size_t i = 0; i < actual.size(); ++i) ExpectWithin(actual[i], expected[i], 0x1p-8);
}

}  // namespace
}  // namespace salamander
