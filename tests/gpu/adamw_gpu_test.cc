#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/adamw.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

// From one element to several blocks with a ragged end.
constexpr int64_t kSizes[] = {1, 3, 100, 4096, 20'011};
constexpr double kSquares = 16.0;  // a norm of 4

TestTensor Scalar(double value) {
  return TestTensor::Of(DType::kFloat64, {1}, {value});
}

// A tensor's rates, before it has elements.
AdamWTensor Rates(int64_t size) {
  AdamWTensor tensor;
  tensor.learning_rate = 1e-3 * static_cast<double>(1 + size % 3);
  tensor.weight_decay = size % 2 == 0 ? 0.1 : 0.0;
  return tensor;
}

struct Clip {
  double squares = kSquares, norm = 0.0;
};

// Three updates of all tensors at once: weights, moments and rounded weights of each in turn.
Outputs RunOnGpu(GpuContext& gpu, Place place, const Clip& clip) {
  std::vector<AdamWTensor> tensors;
  for (const int64_t size : kSizes) {
    const TestTensor zeros(DType::kFloat32, {size});
    AdamWTensor tensor = Rates(size);
    tensor.weight =
        Upload(gpu, place, TestTensor::Normal(DType::kFloat32, {size}, 1), DType::kFloat32);
    tensor.gradient =
        Upload(gpu, place, TestTensor::Normal(DType::kFloat32, {size}, 2, 1e-3), DType::kFloat32);
    tensor.first_moment = Upload(gpu, place, zeros, DType::kFloat32);
    tensor.second_moment = Upload(gpu, place, zeros, DType::kFloat32);
    if (size != 100) tensor.rounded = PoisonedLike(gpu, place, zeros);
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
    outputs.push_back(gpu.Download(tensor.weight));
    outputs.push_back(gpu.Download(tensor.first_moment));
    outputs.push_back(gpu.Download(tensor.second_moment));
    outputs.push_back(tensor.rounded.empty() ? outputs[outputs.size() - 3].As(DType::kBFloat16)
                                             : gpu.Download(tensor.rounded));
  }
  return outputs;
}

// Weights and moments of each in turn.
Outputs RunInDouble(const Clip& clip) {
  const TestContext cpu;
  Outputs outputs;
  for (const int64_t size : kSizes) {
    const TestTensor weight = TestTensor::Normal(DType::kFloat32, {size}, 1).As(DType::kFloat64);
    const TestTensor gradient =
        TestTensor::Normal(DType::kFloat32, {size}, 2, 1e-3).As(DType::kFloat64);
    const TestTensor m(DType::kFloat64, {size}), v = m, squares = Scalar(clip.squares);
    AdamWTensor tensor = Rates(size);
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
    outputs.insert(outputs.end(), {weight, m, v});
  }
  return outputs;
}

// No clip, one that does not bind, one that does.
TEST(AdamWGpuTest, MatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const double clip_norm : {0.0, 5.0, 0.5}) {
    const Clip clip{.norm = clip_norm};
    const Outputs expected = RunInDouble(clip);
    for (const Place place : kBothPlaces) {
      GpuContext gpu(kTestBytes, kTestBytes);
      const Outputs actual = RunOnGpu(gpu, place, clip);
      for (size_t tensor = 0; tensor < std::size(kSizes); ++tensor) {
        SCOPED_TRACE(testing::Message() << kSizes[tensor] << " elements, clip " << clip_norm);
        for (size_t i = 0; i < 3; ++i) {
          ExpectWithin(actual[4 * tensor + i], expected[3 * tensor + i], Float32Bound(1));
        }
        EXPECT_TRUE(BitwiseEqual(actual[4 * tensor + 3].View(),
                                 actual[4 * tensor].As(DType::kBFloat16).View()));
      }
      ExpectSameBits(RunOnGpu(gpu, place, clip), actual);
    }
  }
}

TEST(AdamWGpuTest, ChangesNothingWhereTheGradientsAreNotFinite) {
  SKIP_WITHOUT_GPU();
  for (const double squares :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    GpuContext gpu(kTestBytes, kTestBytes);
    const Outputs actual = RunOnGpu(gpu, Place::kAligned, {.squares = squares, .norm = 1.0});
    const TestTensor weight = TestTensor::Normal(DType::kFloat32, {kSizes[0]}, 1);
    const TestTensor zeros(DType::kFloat32, {kSizes[0]});
    ExpectSameBits({actual[0], actual[1], actual[2]}, {weight, zeros, zeros});
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
    EXPECT_NEAR(sum / expected, 1.0, 0x1p-53 * (8.0 + 200'003.0 / 8.0));
    EXPECT_EQ(Sum(gpu, tensors), sum);
  }
  GpuContext gpu(kTestBytes, kTestBytes);
  EXPECT_EQ(Sum(gpu, {}), 0.0);
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
