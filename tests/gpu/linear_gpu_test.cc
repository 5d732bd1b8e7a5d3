#include <cmath>
#include <cstdint>

#include <gtest/gtest.h>

#include "kernels/linear.h"
#include "tests/gpu/gpu_context.h"
#include "tests/reference/linear.h"

namespace salamander {
namespace {

struct Shape {
  int64_t tokens, in, out;
};

// Odd sizes that no vector load divides, one token, the demo's and the 9B's widths.
constexpr Shape kShapes[] = {{1, 8, 8},       {1, 4096, 256}, {3, 5, 7},       {70, 128, 352},
                             {257, 100, 333}, {130, 64, 1},   {96, 4096, 256}, {33, 16384, 64}};

// fp32 accumulation in the tensor cores' order, then one rounding of the result.
double Bound(DType result, int64_t length) {
  const double sum = 0x1p-24 * (8.0 + std::sqrt(static_cast<double>(length)));
  return result == DType::kBFloat16 ? kBFloat16Rounding + sum : 4 * sum;
}

// For a single row cuBLAS may take a kernel for vectors, whose error was seen to be more than one
// rounding to bf16 and less than two.
double BoundOfRows(int64_t rows, int64_t length) {
  return Bound(DType::kBFloat16, length) * (rows == 1 ? 2.0 : 1.0);
}

// Where bf16 is added to, cuBLAS rounds the product before it adds, and the sum after it: an error
// relative to the product too, which is larger than the sum where the two cancel.
double BoundOfSum(int64_t length, const TestTensor& before, const TestTensor& sum) {
  const double product = RelativeRmse(before.View(), sum.View());  // in units of the sum
  return Bound(DType::kBFloat16, length) * (1.0 + product);
}

struct Problem {
  explicit Problem(const Shape& s)
      : input(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.in}, 1))),
        weight(Rounded(TestTensor::Normal(DType::kFloat64, {s.out, s.in}, 2))),
        d_output(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.out}, 3))),
        output(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.out}, 4))),
        d_input(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.in}, 5))),
        d_weight(TestTensor::Normal(DType::kFloat32, {s.out, s.in}, 6).As(DType::kFloat64)) {}

  TestTensor input, weight, d_output;    // inputs
  TestTensor output, d_input, d_weight;  // what is added to
};

TEST(LinearGpuTest, ForwardMatchesReference) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.in << " x " << shape.out);
    for (const bool accumulate : {false, true}) {
      const Problem p(shape);
      GpuContext gpu;
      const TensorView output = accumulate
                                    ? gpu.Upload(p.output)
                                    : gpu.Poisoned(DType::kBFloat16, {shape.tokens, shape.out});
      ASSERT_TRUE(LinearForward(gpu, {.input = gpu.Upload(p.input),
                                      .weight = gpu.Upload(p.weight),
                                      .output = output,
                                      .accumulate = accumulate})
                      .ok());
      const TestTensor before = p.output;
      reference::LinearForward({p.input.View(), p.weight.View(), p.output.View(), accumulate});
      EXPECT_LE(RelativeRmse(gpu.Download(output).View(), p.output.View()),
                accumulate ? BoundOfSum(shape.in, before, p.output)
                           : BoundOfRows(shape.tokens, shape.in));
    }
  }
}

TEST(LinearGpuTest, BackwardMatchesReferenceAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.in << " x " << shape.out);
    const Problem p(shape);
    GpuContext gpu;
    TestTensor d_input[2], d_weight[2];
    for (int run = 0; run < 2; ++run) {
      const TensorView into_input = gpu.Upload(p.d_input);
      const TensorView into_weight = gpu.Upload(p.d_weight, DType::kFloat32);
      ASSERT_TRUE(LinearBackward(gpu, {.input = gpu.Upload(p.input),
                                       .weight = gpu.Upload(p.weight),
                                       .d_output = gpu.Upload(p.d_output),
                                       .d_input = into_input,
                                       .d_weight = into_weight,
                                       .accumulate_input = true})
                      .ok());
      d_input[run] = gpu.Download(into_input);
      d_weight[run] = gpu.Download(into_weight);
    }
    EXPECT_TRUE(BitwiseEqual(d_input[0].View(), d_input[1].View()));
    EXPECT_TRUE(BitwiseEqual(d_weight[0].View(), d_weight[1].View()));
    const TestTensor before = p.d_input;
    reference::LinearBackward({.input = p.input.View(),
                               .weight = p.weight.View(),
                               .d_output = p.d_output.View(),
                               .d_input = p.d_input.View(),
                               .d_weight = p.d_weight.View(),
                               .accumulate_input = true});
    EXPECT_LE(RelativeRmse(d_input[0].View(), p.d_input.View()),
              BoundOfSum(shape.out, before, p.d_input));
    EXPECT_LE(RelativeRmse(d_weight[0].View(), p.d_weight.View()),
              Bound(DType::kFloat32, shape.tokens));
  }
}

}  // namespace
}  // namespace salamander
