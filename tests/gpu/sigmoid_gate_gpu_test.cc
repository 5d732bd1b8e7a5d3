#include <gtest/gtest.h>

#include "kernels/sigmoid_gate.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor input, gate, d_output;
};

Problem MakeProblem(const RowShape& s) {
  return {Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 1)),
          Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 2)),
          Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 3))};
}

// y, d_input and d_gate.
Outputs RunOnGpu(GpuContext& gpu, Place place, const Problem& p) {
  const TensorView input = Upload(gpu, place, p.input), gate = Upload(gpu, place, p.gate);
  const TensorView y = PoisonedLike(gpu, place, p.gate);
  const TensorView d_input = PoisonedLike(gpu, place, p.gate);
  const TensorView d_gate = PoisonedLike(gpu, place, p.gate);
  EXPECT_TRUE(SigmoidGateForward(gpu, {input, gate, y}).ok());
  EXPECT_TRUE(
      SigmoidGateBackward(gpu, {input, gate, Upload(gpu, place, p.d_output), d_input, d_gate})
          .ok());
  return {gpu.Download(y), gpu.Download(d_input), gpu.Download(d_gate)};
}

Outputs RunInDouble(const Problem& p) {
  const TestContext cpu;
  const TestTensor y = p.gate, d_input = p.gate, d_gate = p.gate;
  EXPECT_TRUE(SigmoidGateForward(cpu, {p.input.View(), p.gate.View(), y.View()}).ok());
  EXPECT_TRUE(SigmoidGateBackward(cpu, {p.input.View(), p.gate.View(), p.d_output.View(),
                                        d_input.View(), d_gate.View()})
                  .ok());
  return {y, d_input, d_gate};
}

TEST(SigmoidGateGpuTest, MatchesDoubleAndRepeatsBitForBit) {
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

TEST(SigmoidGateGpuTest, MayRunInPlace) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem({67, 2056});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs expected = RunOnGpu(gpu, Place::kAligned, problem);
  const TensorView input = gpu.Upload(problem.input), gate = gpu.Upload(problem.gate);
  const TensorView output = gpu.Upload(problem.input), d_output = gpu.Upload(problem.d_output);
  const TensorView d_gate = PoisonedLike(gpu, Place::kAligned, problem.gate);
  ASSERT_TRUE(SigmoidGateForward(gpu, {output, gate, output}).ok());
  ASSERT_TRUE(SigmoidGateBackward(gpu, {input, gate, d_output, d_output, d_gate}).ok());
  ExpectSameBits({gpu.Download(output), gpu.Download(d_output), gpu.Download(d_gate)}, expected);
}

}  // namespace
}  // namespace salamander
