#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/head_norm_rope.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

struct Shape {
  int64_t tokens, heads, dim;
  bool has_norm = true, has_rotation = true;
};

struct Problem {
  TestTensor input, weight, cosines, sines, d_output;
};

Problem MakeProblem(const Shape& s) {
  Problem problem{
      .input = Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.heads, s.dim}, 1)),
      .weight = {},
      .cosines = {},
      .sines = {},
      .d_output = Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.heads, s.dim}, 2))};
  if (s.has_norm) {
    problem.weight = Rounded(TestTensor::Uniform(DType::kFloat64, {s.dim}, 3, 0.5, 1.5));
  }
  if (s.has_rotation) {
    TestTensor cosines(DType::kFloat32, {s.tokens, s.dim / 2}), sines = cosines;
    for (int64_t i = 0; i < cosines.size(); ++i) {
      cosines.Set(i, std::cos(0.1 * static_cast<double>(i)));
      sines.Set(i, std::sin(0.1 * static_cast<double>(i)));
    }
    problem.cosines = cosines.As(DType::kFloat64);
    problem.sines = sines.As(DType::kFloat64);
  }
  return problem;
}

// Every combination of norm and rotation; odd and even dims that no vector divides; the models'
// dims; the widest that is built, and many heads.
std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {
      {.tokens = 1, .heads = 1, .dim = 1, .has_norm = false, .has_rotation = false},
      {.tokens = 7, .heads = 3, .dim = 17, .has_rotation = false},
      {.tokens = 1, .heads = 1, .dim = 8, .has_rotation = false},
      {.tokens = 3, .heads = 2, .dim = 4, .has_norm = false, .has_rotation = false},
      {.tokens = 5, .heads = 2, .dim = 512},
      {.tokens = 2, .heads = 128, .dim = 128}};
  for (const int64_t tokens : {1, 130}) {
    for (const int64_t dim : {2, 6, 64, 100, 128}) {
      shapes.push_back({.tokens = tokens, .heads = 3, .dim = dim});
      shapes.push_back({.tokens = tokens, .heads = 3, .dim = dim, .has_norm = false});
      shapes.push_back({.tokens = tokens, .heads = 3, .dim = dim, .has_rotation = false});
    }
  }
  return shapes;
}

// The output, and inverse_rms where there is a norm.
Outputs ForwardOnGpu(GpuContext& gpu, Place place, const Problem& p, bool in_place = false) {
  const TensorView shape = p.input.View();
  const bool has_norm = !p.weight.View().empty();
  const TensorView input = UploadRows(gpu, place, p.input);
  const TensorView output = in_place ? input : PoisonedRows(gpu, place, p.input);
  const TestTensor per_head(DType::kFloat32, {shape.dim(0), shape.dim(1)});
  const TensorView inverse_rms =
      has_norm ? PoisonedRows(gpu, place, per_head, DType::kFloat32) : TensorView();
  EXPECT_TRUE(
      HeadNormRopeForward(gpu, {.input = input,
                                .weight = Upload(gpu, place, p.weight),
                                .epsilon = 1e-5,
                                .cosines = UploadRows(gpu, place, p.cosines, DType::kFloat32),
                                .sines = UploadRows(gpu, place, p.sines, DType::kFloat32),
                                .output = output,
                                .inverse_rms = inverse_rms})
          .ok());
  if (!has_norm) return {DownloadRows(gpu, place, output)};
  return {DownloadRows(gpu, place, output), DownloadRows(gpu, place, inverse_rms)};
}

Outputs ForwardInDouble(const Problem& p) {
  const TestContext cpu;
  const TensorView shape = p.input.View();
  const bool has_norm = !p.weight.View().empty();
  const TestTensor output = p.input;
  const TestTensor inverse_rms =
      has_norm ? TestTensor(DType::kFloat64, {shape.dim(0), shape.dim(1)}) : TestTensor();
  EXPECT_TRUE(HeadNormRopeForward(cpu, {.input = p.input.View(),
                                        .weight = p.weight.View(),
                                        .epsilon = 1e-5,
                                        .cosines = p.cosines.View(),
                                        .sines = p.sines.View(),
                                        .output = output.View(),
                                        .inverse_rms = inverse_rms.View()})
                  .ok());
  return has_norm ? Outputs{output, inverse_rms} : Outputs{output};
}

// d_input, and d_weight (added to the weights) where there is a norm.
Outputs BackwardOnGpu(GpuContext& gpu, Place place, const Problem& p, const Outputs& forward,
                      bool in_place = false) {
  const bool has_norm = !p.weight.View().empty();
  const TestTensor none;
  const TensorView d_output = UploadRows(gpu, place, p.d_output);
  const TensorView d_input = in_place ? d_output : PoisonedRows(gpu, place, p.d_output);
  const TensorView d_weight = gpu.Upload(p.weight, DType::kFloat32);
  EXPECT_TRUE(HeadNormRopeBackward(
                  gpu, {.input = UploadRows(gpu, place, has_norm ? p.input : none),
                        .weight = Upload(gpu, place, p.weight),
                        .cosines = UploadRows(gpu, place, p.cosines, DType::kFloat32),
                        .sines = UploadRows(gpu, place, p.sines, DType::kFloat32),
                        .inverse_rms =
                            UploadRows(gpu, place, has_norm ? forward[1] : none, DType::kFloat32),
                        .d_output = d_output,
                        .d_input = d_input,
                        .d_weight = d_weight})
                  .ok());
  if (!has_norm) return {DownloadRows(gpu, place, d_input)};
  return {DownloadRows(gpu, place, d_input), gpu.Download(d_weight)};
}

Outputs BackwardInDouble(const Problem& p, const Outputs& forward) {
  const TestContext cpu;
  const bool has_norm = !p.weight.View().empty();
  const TestTensor d_input = p.d_output, d_weight = p.weight;
  EXPECT_TRUE(HeadNormRopeBackward(cpu, {.input = has_norm ? p.input.View() : TensorView(),
                                         .weight = p.weight.View(),
                                         .cosines = p.cosines.View(),
                                         .sines = p.sines.View(),
                                         .inverse_rms = has_norm ? forward[1].View() : TensorView(),
                                         .d_output = p.d_output.View(),
                                         .d_input = d_input.View(),
                                         .d_weight = d_weight.View()})
                  .ok());
  return has_norm ? Outputs{d_input, d_weight} : Outputs{d_input};
}

std::vector<double> ForwardBounds(const Shape& shape, const Problem& p) {
  const double bound = BFloat16Bound(p.input.size(), shape.dim);
  return shape.has_norm ? std::vector<double>{bound, Float32Bound(shape.dim)} : std::vector{bound};
}

// Two elements under a norm: the gradient is what is left of a cancellation, and small beside its
// addends; it loses as many digits as they have in common.
std::vector<double> BackwardBounds(const Shape& shape, const Problem& p) {
  const double bound = (shape.dim == 2 ? 4.0 : 1.0) * BFloat16Bound(p.input.size(), shape.dim);
  if (!shape.has_norm) return {bound};
  return {bound, Float32Bound(shape.tokens * shape.heads)};
}

TEST(HeadNormRopeGpuTest, MatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(testing::Message()
                 << shape.tokens << " x " << shape.heads << " x " << shape.dim
                 << (shape.has_norm ? ", norm" : "") << (shape.has_rotation ? ", rotation" : ""));
    const Problem problem = MakeProblem(shape);
    const Outputs forward = ForwardInDouble(problem);
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) { return ForwardOnGpu(gpu, place, problem); }, forward,
        ForwardBounds(shape, problem));
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) { return BackwardOnGpu(gpu, place, problem, forward); },
        BackwardInDouble(problem, forward), BackwardBounds(shape, problem));
  }
}

TEST(HeadNormRopeGpuTest, LongStreamMatchesDouble) {
  constexpr int64_t kTensors = 4;
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const Shape shape{.tokens = kSampledRows, .heads = 32, .dim = kLongWidth / 32};
  const Problem problem = MakeProblem(shape);
  const Outputs forward = ForwardInDouble(problem);
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return ForwardOnGpu(gpu, place, problem); }, kTensors,
      forward, ForwardBounds(shape, problem));
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return BackwardOnGpu(gpu, place, problem, forward); },
      kTensors, BackwardInDouble(problem, forward), BackwardBounds(shape, problem));
}

TEST(HeadNormRopeGpuTest, PoisonedRowStaysAlone) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem({.tokens = 45, .heads = 3, .dim = 64});
  const Outputs forward = ForwardInDouble(problem);
  GpuContext gpu(kTestBytes, kTestBytes);
  const auto run = [&] {
    Outputs outputs = ForwardOnGpu(gpu, Place::kAligned, problem);
    outputs.push_back(BackwardOnGpu(gpu, Place::kAligned, problem, forward)[0]);
    return outputs;
  };
  const Outputs before = run();
  for (TestTensor* tensor : {&problem.input, &problem.cosines, &problem.d_output}) {
    tensor->PoisonRows(17, 1);
  }
  ExpectOtherRowsSame(run(), before, 17);
}

// More blocks than one, and a last one that is not full.
TEST(HeadNormRopeGpuTest, WeightGradientAddsUpManyHeads) {
  SKIP_WITHOUT_GPU();
  const Shape shape{.tokens = 5'001, .heads = 5, .dim = 64};
  const Problem problem = MakeProblem(shape);
  const Outputs forward = ForwardInDouble(problem);
  GpuContext gpu(kTestBytes, kTestBytes);
  ExpectWithin(BackwardOnGpu(gpu, Place::kAligned, problem, forward),
               BackwardInDouble(problem, forward), BackwardBounds(shape, problem));
}

TEST(HeadNormRopeGpuTest, WithoutNormMayRunInPlace) {
  SKIP_WITHOUT_GPU();
  for (const Place place : kBothPlaces) {
    const Problem problem = MakeProblem({.tokens = 130, .heads = 3, .dim = 128, .has_norm = false});
    GpuContext gpu(kTestBytes, kTestBytes);
    ExpectSameBits(ForwardOnGpu(gpu, place, problem, true), ForwardOnGpu(gpu, place, problem));
  }
}

TEST(HeadNormRopeGpuTest, InputGradientMayBeTheOutputGradient) {
  SKIP_WITHOUT_GPU();
  for (const bool has_norm : {true, false}) {
    const Problem problem =
        MakeProblem({.tokens = 130, .heads = 3, .dim = 128, .has_norm = has_norm});
    const Outputs forward = ForwardInDouble(problem);
    GpuContext gpu(kTestBytes, kTestBytes);
    ExpectSameBits(BackwardOnGpu(gpu, Place::kAligned, problem, forward, true),
                   BackwardOnGpu(gpu, Place::kAligned, problem, forward));
  }
}

TEST(HeadNormRopeGpuTest, HeadTooWideIsRefusedWithTheLimit) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTestBytes, kTestBytes);
  const TensorView heads = gpu.Zeros(DType::kBFloat16, {1, 1, 520});
  ExpectUnimplemented(HeadNormRopeForward(gpu, {.input = heads,
                                                .weight = {},
                                                .cosines = {},
                                                .sines = {},
                                                .output = heads,
                                                .inverse_rms = {}}),
                      {"HeadNormRopeForward", "520", "512", "device: cpu"});
  ExpectUnimplemented(HeadNormRopeBackward(gpu, {.input = {},
                                                 .weight = {},
                                                 .cosines = {},
                                                 .sines = {},
                                                 .inverse_rms = {},
                                                 .d_output = heads,
                                                 .d_input = heads,
                                                 .d_weight = {}}),
                      {"HeadNormRopeBackward", "520", "512", "device: cpu"});
}

}  // namespace
}  // namespace salamander
