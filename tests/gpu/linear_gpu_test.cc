#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/linear.h"
#include "tests/gpu/row_ops.h"
#include "tests/reference/linear.h"

namespace salamander {
namespace {

struct Shape {
  int64_t tokens, in, out;
};

// One element, odd sizes that no vector load divides, one token and as many as still are few, the
// demo's and the 9B's widths, wide reductions of either direction, a vocabulary.
constexpr Shape kShapes[] = {{1, 1, 1},       {1, 8, 8},       {1, 4096, 256}, {3, 5, 7},
                             {70, 128, 352},  {257, 100, 333}, {130, 64, 1},   {96, 4096, 256},
                             {33, 16384, 64}, {3, 8, 151'936}, {8, 104, 50},   {9, 1032, 260},
                             {5, 4096, 600},  {8192, 512, 64}};

// fp32 accumulation in the tensor cores' order.
double WeightGradientBound(int64_t length) {
  return 4 * 0x1p-24 * (8.0 + std::sqrt(static_cast<double>(length)));
}

// For a single row cuBLAS may take a kernel for vectors, whose error was seen to be more than one
// rounding to bf16 and less than two.
double BoundOfProduct(int64_t length, const TestTensor& product) {
  return BFloat16Bound(product.size(), length, product.View().dim(0) == 1 ? 2 : 1);
}

// Where bf16 is added to, cuBLAS rounds the product before it adds, and the sum after it: an error
// relative to the product too, which is larger than the sum where the two cancel.
double BoundOfSum(int64_t length, const TestTensor& before, const TestTensor& sum) {
  const double product = RelativeRmse(before.View(), sum.View());  // in units of the sum
  return BFloat16Bound(sum.size(), length) * (1.0 + product);
}

struct Problem {
  explicit Problem(const Shape& s)
      : shape(s),
        input(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.in}, 1))),
        weight(Rounded(TestTensor::Normal(DType::kFloat64, {s.out, s.in}, 2))),
        d_output(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.out}, 3))),
        output(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.out}, 4))),
        d_input(Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.in}, 5))),
        d_weight(TestTensor::Normal(DType::kFloat32, {s.out, s.in}, 6).As(DType::kFloat64)) {}

  Shape shape;
  TestTensor input, weight, d_output;    // inputs
  TestTensor output, d_input, d_weight;  // what is added to
};

// The product, and its sum with what was there.
Outputs ForwardOnGpu(GpuContext& gpu, Place place, const Problem& p) {
  const TensorView input = UploadRows(gpu, place, p.input), weight = Upload(gpu, place, p.weight);
  const TensorView product = PoisonedRows(gpu, place, p.output);
  const TensorView sum = UploadRows(gpu, place, p.output);
  EXPECT_TRUE(LinearForward(gpu, {.input = input, .weight = weight, .output = product}).ok());
  EXPECT_TRUE(
      LinearForward(gpu, {.input = input, .weight = weight, .output = sum, .accumulate = true})
          .ok());
  return {DownloadRows(gpu, place, product), DownloadRows(gpu, place, sum)};
}

Outputs ForwardInDouble(const Problem& p) {
  const TestTensor product = p.output, sum = p.output;
  reference::LinearForward({p.input.View(), p.weight.View(), product.View(), false});
  reference::LinearForward({p.input.View(), p.weight.View(), sum.View(), true});
  return {product, sum};
}

std::vector<double> ForwardBounds(const Problem& p, const Outputs& expected) {
  return {BoundOfProduct(p.shape.in, expected[0]), BoundOfSum(p.shape.in, p.output, expected[1])};
}

// d_input and d_weight, both added to.
Outputs BackwardOnGpu(GpuContext& gpu, Place place, const Problem& p) {
  const TensorView d_input = UploadRows(gpu, place, p.d_input);
  const TensorView d_weight = Upload(gpu, place, p.d_weight, DType::kFloat32);
  EXPECT_TRUE(LinearBackward(gpu, {.input = UploadRows(gpu, place, p.input),
                                   .weight = Upload(gpu, place, p.weight),
                                   .d_output = UploadRows(gpu, place, p.d_output),
                                   .d_input = d_input,
                                   .d_weight = d_weight,
                                   .accumulate_input = true})
                  .ok());
  return {DownloadRows(gpu, place, d_input), gpu.Download(d_weight)};
}

Outputs BackwardInDouble(const Problem& p) {
  const TestTensor d_input = p.d_input, d_weight = p.d_weight;
  reference::LinearBackward({.input = p.input.View(),
                             .weight = p.weight.View(),
                             .d_output = p.d_output.View(),
                             .d_input = d_input.View(),
                             .d_weight = d_weight.View(),
                             .accumulate_input = true});
  return {d_input, d_weight};
}

std::vector<double> BackwardBounds(const Problem& p, const Outputs& expected) {
  return {BoundOfSum(p.shape.out, p.d_input, expected[0]), WeightGradientBound(p.shape.tokens)};
}

TEST(LinearGpuTest, MatchesReferenceAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.in << " x " << shape.out);
    const Problem p(shape);
    const Outputs forward = ForwardInDouble(p), backward = BackwardInDouble(p);
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) { return ForwardOnGpu(gpu, place, p); }, forward,
        ForwardBounds(p, forward));
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) { return BackwardOnGpu(gpu, place, p); }, backward,
        BackwardBounds(p, backward));
  }
}

TEST(LinearGpuTest, LongStreamMatchesReference) {
  constexpr int64_t kTensors = 3;
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  for (const Shape& shape :
       {Shape{kSampledRows, kLongWidth, 40}, Shape{kSampledRows, 40, kLongWidth}}) {
    SCOPED_TRACE(testing::Message() << shape.in << " to " << shape.out);
    const Problem p(shape);
    const Outputs forward = ForwardInDouble(p), backward = BackwardInDouble(p);
    ExpectMatchesInLongStream(
        [&](GpuContext& gpu, Place place) { return ForwardOnGpu(gpu, place, p); }, kTensors,
        forward, ForwardBounds(p, forward));
    ExpectMatchesInLongStream(
        [&](GpuContext& gpu, Place place) { return BackwardOnGpu(gpu, place, p); }, kTensors,
        backward, BackwardBounds(p, backward));
  }
}

TEST(LinearGpuTest, PoisonedRowStaysAlone) {
  SKIP_WITHOUT_GPU();
  Problem p({.tokens = 45, .in = 96, .out = 40});
  GpuContext gpu(kTestBytes, kTestBytes);
  const auto run = [&] {
    Outputs outputs = ForwardOnGpu(gpu, Place::kAligned, p);
    outputs.push_back(BackwardOnGpu(gpu, Place::kAligned, p)[0]);
    return outputs;
  };
  const Outputs before = run();
  for (TestTensor* tensor : {&p.input, &p.d_output}) tensor->PoisonRows(17, 1);
  ExpectOtherRowsSame(run(), before, 17);
}

TestTensor RowOf(const TestTensor& rows, int64_t row) {
  const TensorView from = rows.View().Rows(row, 1);
  TestTensor copy(from.dtype(), {1, from.size()});
  for (int64_t i = 0; i < from.size(); ++i) copy.Set(i, ElementAt(from, i));
  return copy;
}

// As steps of generation want it: what else is in the batch does not change a sequence.
TEST(LinearGpuTest, FewRowsAreEachTheSameAlone) {
  SKIP_WITHOUT_GPU();
  const Problem all({.tokens = 8, .in = 520, .out = 90});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs expected = ForwardOnGpu(gpu, Place::kAligned, all);
  for (int64_t row = 0; row < all.shape.tokens; ++row) {
    Problem one({.tokens = 1, .in = all.shape.in, .out = all.shape.out});
    one.weight = all.weight;
    one.input = RowOf(all.input, row);
    one.output = RowOf(all.output, row);
    const Outputs alone = ForwardOnGpu(gpu, Place::kAligned, one);
    for (size_t i = 0; i < alone.size(); ++i)
      EXPECT_TRUE(BitwiseEqual(alone[i].View(), expected[i].View().Rows(row, 1)))
          << "output " << i << ", row " << row;
  }
}

}  // namespace
}  // namespace salamander
