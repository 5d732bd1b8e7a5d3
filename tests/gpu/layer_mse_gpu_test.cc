#include <vector>

#include <gtest/gtest.h>

#include "kernels/layer_mse.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

struct Problem {
  TestTensor output, target;  // [T, C]
  TestTensor row_weights;     // [T] fp32 or none
};

// Every third row without weight.
Problem MakeProblem(const RowShape& s) {
  Problem problem{.output = Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 1)),
                  .target = Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 2)),
                  .row_weights = TestTensor::Uniform(DType::kFloat32, {s.tokens}, 3, 0.5, 1.5)};
  for (int64_t t = 1; t < s.tokens; t += 3) problem.row_weights.Set(t, 0.0);
  return problem;
}

// What the sums are added to.
TestTensor SumsBefore() {
  return TestTensor::Of(DType::kFloat64, {4}, {1.0, 2.0, 3.0, 4.0});
}

// The gradient, and the sums: loss, target, product, output.
Outputs RunOnGpu(GpuContext& gpu, Place place, const Problem& p) {
  const TensorView d_output = PoisonedRows(gpu, place, p.output);
  const TensorView sums = gpu.Upload(SumsBefore(), DType::kFloat64);
  EXPECT_TRUE(LayerMse(gpu, {.output = UploadRows(gpu, place, p.output),
                             .target = UploadRows(gpu, place, p.target),
                             .row_weights = UploadRows(gpu, place, p.row_weights, DType::kFloat32),
                             .gradient_scale = 0.25,
                             .d_output = d_output,
                             .loss_sum = sums.Rows(0, 1),
                             .moments = sums.Rows(1, 3)})
                  .ok());
  return {DownloadRows(gpu, place, d_output), gpu.Download(sums)};
}

Outputs RunInDouble(const Problem& p) {
  const TestContext cpu;
  const TestTensor d_output = p.output, sums = SumsBefore();
  EXPECT_TRUE(LayerMse(cpu, {.output = p.output.View(),
                             .target = p.target.View(),
                             .row_weights = p.row_weights.View(),
                             .gradient_scale = 0.25,
                             .d_output = d_output.View(),
                             .loss_sum = sums.View().Rows(0, 1),
                             .moments = sums.View().Rows(1, 3)})
                  .ok());
  return {d_output, sums};
}

std::vector<double> Bounds(const Problem& p) {
  return {BFloat16Bound(p.output.size(), 1), Float64Bound(p.output.size())};
}

TEST(LayerMseGpuTest, MatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : kRowShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.width);
    Problem problem = MakeProblem(shape);
    for (const bool is_weighted : {true, false}) {
      if (!is_weighted) problem.row_weights = TestTensor();
      ExpectMatchesAndRepeats(
          [&](GpuContext& gpu, Place place) { return RunOnGpu(gpu, place, problem); },
          RunInDouble(problem), Bounds(problem));
    }
  }
}

TEST(LayerMseGpuTest, LongStreamMatchesDouble) {
  constexpr int64_t kTensors = 3;
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  Problem problem = MakeProblem(kLongShape);
  for (const bool is_weighted : {true, false}) {
    if (!is_weighted) problem.row_weights = TestTensor();
    ExpectMatchesInLongStream(
        [&](GpuContext& gpu, Place place) { return RunOnGpu(gpu, place, problem); }, kTensors,
        RunInDouble(problem), Bounds(problem));
  }
}

TEST(LayerMseGpuTest, SumsManyRows) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem({20'003, 40});
  GpuContext gpu(kTestBytes, kTestBytes);
  ExpectWithin(RunOnGpu(gpu, Place::kAligned, problem), RunInDouble(problem), Bounds(problem));
}

TEST(LayerMseGpuTest, RowsWithoutWeightAreNotReadAndGetNoGradient) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem({7, 17});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs before = RunOnGpu(gpu, Place::kAligned, problem);
  for (const int64_t row : {1, 4}) {
    problem.output.PoisonRows(row, 1);
    problem.target.PoisonRows(row, 1);
  }
  ExpectSameBits(RunOnGpu(gpu, Place::kAligned, problem), before);
  for (int64_t c = 0; c < 17; ++c) EXPECT_EQ(before[0].At(17 + c), 0.0);
}

TEST(LayerMseGpuTest, OnlyTheLossIsMandatory) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem({45, 100});
  GpuContext gpu(kTestBytes, kTestBytes);
  const TensorView loss = gpu.Upload(TestTensor::Of(DType::kFloat64, {1}, {1.0}), DType::kFloat64);
  ASSERT_TRUE(LayerMse(gpu, {.output = gpu.Upload(problem.output),
                             .target = gpu.Upload(problem.target),
                             .row_weights = gpu.Upload(problem.row_weights, DType::kFloat32),
                             .d_output = {},
                             .loss_sum = loss,
                             .moments = {}})
                  .ok());
  EXPECT_EQ(gpu.Download(loss).At(0), RunOnGpu(gpu, Place::kAligned, problem)[1].At(0));
}

}  // namespace
}  // namespace salamander
