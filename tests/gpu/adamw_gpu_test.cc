#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/adamw.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

constexpr double kSquares = 16.0;  // a norm of 4

// A tensor and what the updates make it from; its rates are a matter of its size.
struct Problem {
  TestTensor weight, gradient;  // fp32

  int64_t size() const { return weight.size(); }
  bool has_rounded() const { return size() != 100; }
  AdamWTensor Rates() const {
    AdamWTensor tensor;
    tensor.learning_rate = 1e-3 * static_cast<double>(1 + size() % 3);
    tensor.weight_decay = size() % 2 == 0 ? 0.1 : 0.0;
    return tensor;
  }
};

Problem MakeProblem(TestTensor::Dims dims) {
  return {TestTensor::Normal(DType::kFloat32, dims, 1),
          TestTensor::Normal(DType::kFloat32, dims, 2, 1e-3)};
}

// From one element to several blocks with a ragged end.
std::vector<Problem> Problems() {
  return {MakeProblem({1}), MakeProblem({3}), MakeProblem({100}), MakeProblem({4096}),
          MakeProblem({20'011})};
}

TestTensor Scalar(double value) {
  return TestTensor::Of(DType::kFloat64, {1}, {value});
}

TestTensor ZerosLike(const TestTensor& tensor) {
  TestTensor zeros = tensor;
  for (int64_t i = 0; i < zeros.size(); ++i) zeros.Set(i, 0.0);
  return zeros;
}

struct Clip {
  double squares = kSquares, norm = 0.0;
};

// Three updates of all tensors at once: weights, moments and rounded weights of each in turn.
Outputs RunOnGpu(GpuContext& gpu, Place place, const Clip& clip,
                 const std::vector<Problem>& problems) {
  std::vector<AdamWTensor> tensors;
  for (const Problem& problem : problems) {
    const TestTensor zeros = ZerosLike(problem.weight);
    const auto upload = [&](const TestTensor& tensor) {
      return UploadRows(gpu, place, tensor, DType::kFloat32);
    };
    AdamWTensor tensor = problem.Rates();
    tensor.weight = upload(problem.weight);
    tensor.gradient = upload(problem.gradient);
    tensor.first_moment = upload(zeros);
    tensor.second_moment = upload(zeros);
    if (problem.has_rounded()) tensor.rounded = PoisonedRows(gpu, place, zeros);
    tensors.push_back(tensor);
  }
  const TensorView squares = gpu.Upload(Scalar(clip.squares), DType::kFloat64);
  for (int64_t step = 1; step <= 3; ++step) {
    EXPECT_TRUE(AdamWUpdate(gpu, {.tensors = tensors,
                                  .beta2 = 0.999,
                                  .step = step,
                                  .gradient_squares = squares,
                                  .clip_norm = clip.norm})
                    .ok());
  }
  Outputs outputs;
  for (const AdamWTensor& tensor : tensors) {
    outputs.push_back(DownloadRows(gpu, place, tensor.weight));
    outputs.push_back(DownloadRows(gpu, place, tensor.first_moment));
    outputs.push_back(DownloadRows(gpu, place, tensor.second_moment));
    outputs.push_back(tensor.rounded.empty() ? outputs[outputs.size() - 3].As(DType::kBFloat16)
                                             : DownloadRows(gpu, place, tensor.rounded));
  }
  return outputs;
}

// The same, its weights rounded from fp64.
Outputs RunInDouble(const Clip& clip, const std::vector<Problem>& problems) {
  const TestContext cpu;
  Outputs outputs;
  for (const Problem& problem : problems) {
    const TestTensor weight = problem.weight.As(DType::kFloat64);
    const TestTensor gradient = problem.gradient.As(DType::kFloat64);
    const TestTensor m = ZerosLike(weight), v = m, squares = Scalar(clip.squares);
    AdamWTensor tensor = problem.Rates();
    tensor.weight = weight.View();
    tensor.gradient = gradient.View();
    tensor.first_moment = m.View();
    tensor.second_moment = v.View();
    for (int64_t step = 1; step <= 3; ++step) {
      EXPECT_TRUE(AdamWUpdate(cpu, {.tensors = {&tensor, 1},
                                    .beta2 = 0.999,
                                    .step = step,
                                    .gradient_squares = squares.View(),
                                    .clip_norm = clip.norm})
                      .ok());
    }
    outputs.insert(outputs.end(), {weight, m, v, weight});
  }
  return outputs;
}

std::vector<double> Bounds(const std::vector<Problem>& problems) {
  std::vector<double> bounds;
  for (const Problem& problem : problems) {
    bounds.insert(bounds.end(), 3, Float32Bound(1));
    bounds.push_back(BFloat16Bound(problem.size(), 1));
  }
  return bounds;
}

void ExpectWeightsRounded(const Outputs& outputs) {
  for (size_t i = 0; i < outputs.size(); i += 4) {
    EXPECT_TRUE(BitwiseEqual(outputs[i + 3].View(), outputs[i].As(DType::kBFloat16).View()));
  }
}

// No clip, one that does not bind, one that does.
TEST(AdamWGpuTest, MatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  const std::vector<Problem> problems = Problems();
  for (const double clip_norm : {0.0, 5.0, 0.5}) {
    SCOPED_TRACE(testing::Message() << "clip " << clip_norm);
    const Clip clip{.norm = clip_norm};
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) {
          Outputs outputs = RunOnGpu(gpu, place, clip, problems);
          ExpectWeightsRounded(outputs);
          return outputs;
        },
        RunInDouble(clip, problems), Bounds(problems));
  }
}

TEST(AdamWGpuTest, LongTensorMatchesDouble) {
  constexpr int64_t kTensors = 9;  // one in fp32 counts twice
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const std::vector<Problem> problems = {MakeProblem({kSampledRows, kLongWidth})};
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return RunOnGpu(gpu, place, {}, problems); }, kTensors,
      RunInDouble({}, problems), Bounds(problems));
}

TEST(AdamWGpuTest, ChangesNothingWhereTheGradientsAreNotFinite) {
  SKIP_WITHOUT_GPU();
  const std::vector<Problem> problems = {MakeProblem({3})};
  for (const double squares :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    GpuContext gpu(kTestBytes, kTestBytes);
    const Outputs actual =
        RunOnGpu(gpu, Place::kAligned, {.squares = squares, .norm = 1.0}, problems);
    const TestTensor zeros = ZerosLike(problems[0].weight);
    ExpectSameBits({actual[0], actual[1], actual[2]}, {problems[0].weight, zeros, zeros});
    EXPECT_TRUE(std::isnan(actual[3].At(0)));
  }
}

double Sum(GpuContext& gpu, const std::vector<TensorView>& tensors) {
  const TensorView sum = gpu.Poisoned(DType::kFloat64, {1});
  EXPECT_TRUE(SumOfSquares(gpu, tensors, sum).ok());
  return gpu.Download(sum).At(0);
}

TEST(SumOfSquaresGpuTest, AddsAllTensorsInDoublePrecisionAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const Place place : kBothPlaces) {
    GpuContext gpu(kTestBytes, kTestBytes);
    std::vector<TensorView> tensors;
    double expected = 0;
    for (const int64_t size : {1, 3, 32'768, 200'003}) {
      const TestTensor x = TestTensor::Normal(DType::kFloat32, {size}, 1);
      tensors.push_back(Upload(gpu, place, x, DType::kFloat32));
      expected += Dot(x.View(), x.View());
    }
    const double sum = Sum(gpu, tensors);
    EXPECT_NEAR(sum / expected, 1.0, Float64Bound(200'003));
    EXPECT_EQ(Sum(gpu, tensors), sum);
  }
  GpuContext gpu(kTestBytes, kTestBytes);
  EXPECT_EQ(Sum(gpu, {}), 0.0);
}

TEST(SumOfSquaresGpuTest, LongTensorCountsToItsEnd) {
  constexpr int64_t kTensors = 2;  // one in fp32 counts twice
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const TestTensor x = TestTensor::Normal(DType::kFloat32, {kSampledRows, kLongWidth}, 1);
  GpuContext gpu(LongTensorBytes(kTensors), kLongScratchBytes);
  const double sum = Sum(gpu, {UploadSample(gpu, x, DType::kFloat32)});
  EXPECT_NEAR(sum / Dot(x.View(), x.View()), 1.0, Float64Bound(x.size()));
}

TEST(SumOfSquaresGpuTest, SquaresBeyondSinglePrecisionDoNotOverflow) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTestBytes, kTestBytes);
  const TestTensor huge = TestTensor::Constant(DType::kFloat32, {4}, 1e30);
  EXPECT_NEAR(Sum(gpu, {gpu.Upload(huge, DType::kFloat32)}) / 4e60, 1.0, 1e-6);
}

TEST(SumOfSquaresGpuTest, ElementThatIsNotFiniteShows) {
  SKIP_WITHOUT_GPU();
  TestTensor x = TestTensor::Normal(DType::kFloat32, {100'000}, 1);
  x.PoisonRows(77'777, 1);
  GpuContext gpu(kTestBytes, kTestBytes);
  EXPECT_TRUE(std::isnan(Sum(gpu, {gpu.Upload(x, DType::kFloat32)})));
}

}  // namespace
}  // namespace salamander
