// The ops whose elements depend on those at their own place alone: SwiGLU and the mixers' gate.
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/sigmoid_gate.h"
#include "kernels/swiglu.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor first, second, d_output;
};

// Y, the gradients of `first` and `second` and, of SwiGLU's backward, y again.
struct Swiglu {
  static constexpr int64_t kTensors = 7;

  // Gates up to twenty deviations out, where the exponential is far from one on either side.
  static TestTensor First(const RowShape& s) {
    return TestTensor::Uniform(DType::kFloat64, {s.tokens, s.width}, 1, -20.0, 20.0);
  }

  static Outputs RunOnGpu(GpuContext& gpu, Place place, const Problem& p) {
    const TensorView gate = UploadRows(gpu, place, p.first), up = UploadRows(gpu, place, p.second);
    const TensorView y = PoisonedRows(gpu, place, p.first),
                     again = PoisonedRows(gpu, place, p.first);
    const TensorView d_gate = PoisonedRows(gpu, place, p.first);
    const TensorView d_up = PoisonedRows(gpu, place, p.first);
    const TensorView d_output = UploadRows(gpu, place, p.d_output);
    EXPECT_TRUE(SwigluForward(gpu, {gate, up, y}).ok());
    EXPECT_TRUE(SwigluBackward(gpu, {gate, up, d_output, d_gate, d_up, again}).ok());
    return {DownloadRows(gpu, place, y), DownloadRows(gpu, place, d_gate),
            DownloadRows(gpu, place, d_up), DownloadRows(gpu, place, again)};
  }

  static Outputs RunInDouble(const Problem& p) {
    const TestContext cpu;
    const TestTensor y = p.first, d_gate = p.first, d_up = p.first;
    EXPECT_TRUE(SwigluForward(cpu, {p.first.View(), p.second.View(), y.View()}).ok());
    EXPECT_TRUE(
        SwigluBackward(
            cpu,
            {p.first.View(), p.second.View(), p.d_output.View(), d_gate.View(), d_up.View(), {}})
            .ok());
    return {y, d_gate, d_up, y};
  }
};

// Y and the gradients of `first`, which is gated by `second`.
struct SigmoidGate {
  static constexpr int64_t kTensors = 6;

  static TestTensor First(const RowShape& s) {
    return TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 1);
  }

  static Outputs RunOnGpu(GpuContext& gpu, Place place, const Problem& p) {
    const TensorView input = UploadRows(gpu, place, p.first);
    const TensorView gate = UploadRows(gpu, place, p.second);
    const TensorView y = PoisonedRows(gpu, place, p.first);
    const TensorView d_input = PoisonedRows(gpu, place, p.first);
    const TensorView d_gate = PoisonedRows(gpu, place, p.first);
    const TensorView d_output = UploadRows(gpu, place, p.d_output);
    EXPECT_TRUE(SigmoidGateForward(gpu, {input, gate, y}).ok());
    EXPECT_TRUE(SigmoidGateBackward(gpu, {input, gate, d_output, d_input, d_gate}).ok());
    return {DownloadRows(gpu, place, y), DownloadRows(gpu, place, d_input),
            DownloadRows(gpu, place, d_gate)};
  }

  static Outputs RunInDouble(const Problem& p) {
    const TestContext cpu;
    const TestTensor y = p.first, d_input = p.first, d_gate = p.first;
    EXPECT_TRUE(SigmoidGateForward(cpu, {p.first.View(), p.second.View(), y.View()}).ok());
    EXPECT_TRUE(SigmoidGateBackward(cpu, {p.first.View(), p.second.View(), p.d_output.View(),
                                          d_input.View(), d_gate.View()})
                    .ok());
    return {y, d_input, d_gate};
  }
};

template <typename Op>
Problem MakeProblem(const RowShape& s) {
  return {Rounded(Op::First(s)),
          Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 2)),
          Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 3))};
}

std::vector<double> Bounds(const Outputs& outputs) {
  return std::vector<double>(outputs.size(), BFloat16Bound(outputs[0].size(), 1));
}

template <typename Op>
class PointwiseGpuTest : public testing::Test {};

using Ops = testing::Types<Swiglu, SigmoidGate>;
TYPED_TEST_SUITE(PointwiseGpuTest, Ops);

TYPED_TEST(PointwiseGpuTest, MatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : kRowShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.width);
    const Problem problem = MakeProblem<TypeParam>(shape);
    const Outputs expected = TypeParam::RunInDouble(problem);
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) { return TypeParam::RunOnGpu(gpu, place, problem); },
        expected, Bounds(expected));
  }
}

TYPED_TEST(PointwiseGpuTest, LongStreamMatchesDouble) {
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(TypeParam::kTensors);
  const Problem problem = MakeProblem<TypeParam>(kLongShape);
  const Outputs expected = TypeParam::RunInDouble(problem);
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return TypeParam::RunOnGpu(gpu, place, problem); },
      TypeParam::kTensors, expected, Bounds(expected));
}

TYPED_TEST(PointwiseGpuTest, PoisonedRowStaysAlone) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem<TypeParam>({45, 100});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs before = TypeParam::RunOnGpu(gpu, Place::kAligned, problem);
  for (TestTensor* tensor : {&problem.first, &problem.second, &problem.d_output}) {
    tensor->PoisonRows(17, 1);
  }
  ExpectOtherRowsSame(TypeParam::RunOnGpu(gpu, Place::kAligned, problem), before, 17);
}

TEST(SwigluGpuTest, GradientsMayReplaceWhatTheyAreMadeFrom) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem<Swiglu>({67, 2056});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs expected = Swiglu::RunOnGpu(gpu, Place::kAligned, problem);
  const TensorView gate = gpu.Upload(problem.first), d_output = gpu.Upload(problem.d_output);
  ASSERT_TRUE(
      SwigluBackward(gpu, {gate, gpu.Upload(problem.second), d_output, gate, d_output, {}}).ok());
  ExpectSameBits({gpu.Download(gate), gpu.Download(d_output)}, {expected[1], expected[2]});
}

TEST(SwigluGpuTest, SaturatedGatesStayFinite) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem<Swiglu>({1, 8});
  for (int64_t i = 0; i < 8; ++i) problem.first.Set(i, i % 2 == 0 ? 1000.0 : -1000.0);
  problem.first = Rounded(problem.first);
  GpuContext gpu(kTestBytes, kTestBytes);
  ExpectWithin(Swiglu::RunOnGpu(gpu, Place::kAligned, problem), Swiglu::RunInDouble(problem),
               std::vector<double>(4, 0x1p-8));
}

TEST(SigmoidGateGpuTest, MayRunInPlace) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem<SigmoidGate>({67, 2056});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs expected = SigmoidGate::RunOnGpu(gpu, Place::kAligned, problem);
  const TensorView input = gpu.Upload(problem.first), gate = gpu.Upload(problem.second);
  const TensorView output = gpu.Upload(problem.first), d_output = gpu.Upload(problem.d_output);
  const TensorView d_gate = PoisonedRows(gpu, Place::kAligned, problem.second);
  ASSERT_TRUE(SigmoidGateForward(gpu, {output, gate, output}).ok());
  ASSERT_TRUE(SigmoidGateBackward(gpu, {input, gate, d_output, d_output, d_gate}).ok());
  ExpectSameBits({gpu.Download(output), gpu.Download(d_output), gpu.Download(d_gate)}, expected);
}

}  // namespace
}  // namespace salamander
