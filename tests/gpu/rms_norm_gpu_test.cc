#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "kernels/rms_norm.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

constexpr double kBranchScale = 0.3, kEpsilon = 1e-5;

struct Problem {
  TestTensor residual, branch, weight, d_output, d_hidden;
};

// Residual and branch do not cancel, so that rounding stays relative even at one channel.
Problem MakeProblem(const RowShape& s) {
  const auto rows = [&](uint64_t seed) {
    return Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, seed));
  };
  return {
      .residual = Rounded(TestTensor::Uniform(DType::kFloat64, {s.tokens, s.width}, 1, 0.5, 1.5)),
      .branch = Rounded(TestTensor::Normal(DType::kFloat64, {s.tokens, s.width}, 2, 0.3)),
      .weight = Rounded(TestTensor::Uniform(DType::kFloat64, {s.width}, 3, 0.5, 1.5)),
      .d_output = rows(4),
      .d_hidden = rows(5)};
}

// Hidden (the residual where there is no branch), output, inverse_rms.
Outputs ForwardOnGpu(GpuContext& gpu, Place place, const Problem& p) {
  const bool has_branch = !p.branch.View().empty();
  const TensorView residual = UploadRows(gpu, place, p.residual);
  const TensorView hidden = has_branch ? PoisonedRows(gpu, place, p.residual) : TensorView();
  const TensorView output = PoisonedRows(gpu, place, p.residual);
  const TestTensor per_row(DType::kFloat32, {p.residual.View().dim(0)});
  const TensorView inverse_rms = PoisonedRows(gpu, place, per_row, DType::kFloat32);
  EXPECT_TRUE(RmsNormForward(gpu, {.residual = residual,
                                   .branch = UploadRows(gpu, place, p.branch),
                                   .branch_scale = kBranchScale,
                                   .weight = Upload(gpu, place, p.weight),
                                   .epsilon = kEpsilon,
                                   .hidden = hidden,
                                   .output = output,
                                   .inverse_rms = inverse_rms})
                  .ok());
  return {DownloadRows(gpu, place, has_branch ? hidden : residual),
          DownloadRows(gpu, place, output), DownloadRows(gpu, place, inverse_rms)};
}

Outputs ForwardInDouble(const Problem& p) {
  const TestContext cpu;
  const bool has_branch = !p.branch.View().empty();
  const TestTensor hidden = p.residual, output = p.residual;
  const TestTensor inverse_rms(DType::kFloat64, {p.residual.View().dim(0)});
  EXPECT_TRUE(RmsNormForward(cpu, {.residual = p.residual.View(),
                                   .branch = p.branch.View(),
                                   .branch_scale = kBranchScale,
                                   .weight = p.weight.View(),
                                   .epsilon = kEpsilon,
                                   .hidden = has_branch ? hidden.View() : TensorView(),
                                   .output = output.View(),
                                   .inverse_rms = inverse_rms.View()})
                  .ok());
  return {hidden, output, inverse_rms};
}

// Which gradients a test wants.
struct Wanted {
  bool d_residual = true, d_branch = true, d_weight = true;
};

// d_residual, d_branch and d_weight (added to the weights), of the residual as h; what is not
// wanted stays poisoned, or the weights.
Outputs BackwardOnGpu(GpuContext& gpu, Place place, const Problem& p, const TestTensor& inverse_rms,
                      const Wanted& wanted = {}) {
  const TensorView d_residual = PoisonedRows(gpu, place, p.residual);
  const TensorView d_branch = PoisonedRows(gpu, place, p.residual);
  const TensorView d_weight = gpu.Upload(p.weight, DType::kFloat32);
  EXPECT_TRUE(
      RmsNormBackward(gpu, {.hidden = UploadRows(gpu, place, p.residual),
                            .weight = Upload(gpu, place, p.weight),
                            .inverse_rms = UploadRows(gpu, place, inverse_rms, DType::kFloat32),
                            .d_output = UploadRows(gpu, place, p.d_output),
                            .d_hidden = UploadRows(gpu, place, p.d_hidden),
                            .branch_scale = kBranchScale,
                            .d_residual = wanted.d_residual ? d_residual : TensorView(),
                            .d_branch = wanted.d_branch ? d_branch : TensorView(),
                            .d_weight = wanted.d_weight ? d_weight : TensorView()})
          .ok());
  return {DownloadRows(gpu, place, d_residual), DownloadRows(gpu, place, d_branch),
          gpu.Download(d_weight)};
}

Outputs BackwardInDouble(const Problem& p, const TestTensor& inverse_rms) {
  const TestContext cpu;
  const TestTensor d_residual = p.residual, d_branch = p.residual, d_weight = p.weight;
  EXPECT_TRUE(RmsNormBackward(cpu, {.hidden = p.residual.View(),
                                    .weight = p.weight.View(),
                                    .inverse_rms = inverse_rms.View(),
                                    .d_output = p.d_output.View(),
                                    .d_hidden = p.d_hidden.View(),
                                    .branch_scale = kBranchScale,
                                    .d_residual = d_residual.View(),
                                    .d_branch = d_branch.View(),
                                    .d_weight = d_weight.View()})
                  .ok());
  return {d_residual, d_branch, d_weight};
}

// The output is made from h as it is stored: rounded once more than h.
std::vector<double> ForwardBounds(const Problem& p) {
  const int64_t size = p.residual.size(), width = p.residual.View().dim(1);
  if (p.branch.View().empty()) return {0.0, BFloat16Bound(size, width), Float32Bound(width)};
  return {BFloat16Bound(size, 1), BFloat16Bound(size, width, 2), BFloat16Bound(size, width)};
}

std::vector<double> BackwardBounds(const Problem& p) {
  const int64_t tokens = p.residual.View().dim(0), width = p.residual.View().dim(1);
  const double of_rows = BFloat16Bound(p.residual.size(), width);
  return {of_rows, of_rows, Float32Bound(tokens)};
}

TEST(RmsNormGpuTest, ForwardMatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : kRowShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.width);
    Problem problem = MakeProblem(shape);
    for (const bool has_branch : {true, false}) {
      if (!has_branch) problem.branch = TestTensor();
      ExpectMatchesAndRepeats(
          [&](GpuContext& gpu, Place place) { return ForwardOnGpu(gpu, place, problem); },
          ForwardInDouble(problem), ForwardBounds(problem));
    }
  }
}

TEST(RmsNormGpuTest, BackwardMatchesDoubleAndRepeatsBitForBit) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : kRowShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.width);
    const Problem problem = MakeProblem(shape);
    const TestTensor inverse_rms = ForwardInDouble(problem)[2];
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) {
          return BackwardOnGpu(gpu, place, problem, inverse_rms);
        },
        BackwardInDouble(problem, inverse_rms), BackwardBounds(problem));
  }
}

// The first columns of rows that go on elsewhere.
TEST(RmsNormGpuTest, RowsSplitAmongRanksMatchDouble) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : kRowShapes) {
    SCOPED_TRACE(testing::Message() << shape.tokens << " x " << shape.width);
    Problem problem = MakeProblem(shape);
    problem.branch = TestTensor();
    const int64_t whole_width = 2 * shape.width;
    const TestTensor elsewhere = TestTensor::Uniform(DType::kFloat64, {shape.tokens}, 6, 0.5, 1.5);
    const auto run = [&](const ExecutionContext& context, const Problem& p, DType statistics,
                         const auto& on_device, const auto& room) -> std::vector<TensorView> {
      const TensorView hidden = on_device(p.residual, p.residual.View().dtype());
      const TensorView weight = on_device(p.weight, p.residual.View().dtype());
      const TensorView d_output = on_device(p.d_output, p.residual.View().dtype());
      const TensorView squares = room(TestTensor(statistics, {shape.tokens}), statistics);
      const TensorView dots = room(TestTensor(statistics, {shape.tokens}), statistics);
      EXPECT_TRUE(RmsNormSums(context, {.hidden = hidden, .sums = squares}).ok());
      EXPECT_TRUE(
          RmsNormSums(context,
                      {.hidden = hidden, .weight = weight, .d_output = d_output, .sums = dots})
              .ok());
      const TensorView more = on_device(elsewhere, statistics);
      EXPECT_TRUE(Add(context, more, squares).ok() && Add(context, more, dots).ok());
      const TensorView output = room(p.residual, p.residual.View().dtype());
      const TensorView inverse_rms = room(TestTensor(statistics, {shape.tokens}), statistics);
      const TensorView d_residual = room(p.residual, p.residual.View().dtype());
      const TensorView d_weight = on_device(p.weight, statistics);
      EXPECT_TRUE(RmsNormForward(context, {.residual = hidden,
                                           .branch = {},
                                           .weight = weight,
                                           .epsilon = kEpsilon,
                                           .hidden = {},
                                           .output = output,
                                           .inverse_rms = inverse_rms,
                                           .split = {.sums = squares, .width = whole_width}})
                      .ok());
      EXPECT_TRUE(RmsNormBackward(context, {.hidden = hidden,
                                            .weight = weight,
                                            .inverse_rms = inverse_rms,
                                            .d_output = d_output,
                                            .d_hidden = {},
                                            .d_residual = d_residual,
                                            .d_branch = {},
                                            .d_weight = d_weight,
                                            .split = {.sums = dots, .width = whole_width}})
                      .ok());
      return {output, inverse_rms, d_residual, d_weight};
    };
    const TestContext cpu;
    std::vector<std::unique_ptr<TestTensor>> kept;
    const auto copy = [&](const TestTensor& tensor, DType) {
      return kept.emplace_back(std::make_unique<TestTensor>(tensor))->View();
    };
    Outputs expected;
    for (const TensorView& view : run(cpu, problem, DType::kFloat64, copy, copy)) {
      expected.emplace_back(view.rank() == 1
                                ? TestTensor(view.dtype(), {view.dim(0)})
                                : TestTensor(view.dtype(), {view.dim(0), view.dim(1)}));
      EXPECT_TRUE(Copy(cpu, view, expected.back().View()).ok());
    }
    Problem rounded = problem;
    for (TestTensor* const tensor : {&rounded.residual, &rounded.weight, &rounded.d_output})
      *tensor = tensor->As(DType::kBFloat16);
    const auto bound = BFloat16Bound(problem.residual.size(), whole_width);
    ExpectMatchesAndRepeats(
        [&](GpuContext& gpu, Place place) {
          const auto upload = [&](const TestTensor& tensor, DType dtype) {
            return Upload(gpu, place, tensor, dtype);
          };
          const auto room = [&](const TestTensor& like, DType dtype) {
            return PoisonedRows(gpu, place, like, dtype);
          };
          Outputs outputs;
          for (const TensorView& view : run(gpu, rounded, DType::kFloat32, upload, room))
            outputs.push_back(gpu.Download(view));
          return outputs;
        },
        expected, {bound, Float32Bound(whole_width), bound, Float32Bound(shape.tokens)});
  }
}

TEST(RmsNormGpuTest, LongStreamMatchesDouble) {
  constexpr int64_t kTensors = 5;
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const Problem problem = MakeProblem(kLongShape);
  const Outputs forward = ForwardInDouble(problem);
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return ForwardOnGpu(gpu, place, problem); }, kTensors,
      forward, ForwardBounds(problem));
  ExpectMatchesInLongStream(
      [&](GpuContext& gpu, Place place) { return BackwardOnGpu(gpu, place, problem, forward[2]); },
      kTensors, BackwardInDouble(problem, forward[2]), BackwardBounds(problem));
}

// More slices of rows than one, and a last one that is not full.
TEST(RmsNormGpuTest, WeightGradientAddsUpManyRows) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : {RowShape{40'001, 24}, RowShape{3'001, 520}}) {
    const Problem problem = MakeProblem(shape);
    const TestTensor inverse_rms = ForwardInDouble(problem)[2];
    GpuContext gpu(kTestBytes, kTestBytes);
    ExpectWithin(BackwardOnGpu(gpu, Place::kAligned, problem, inverse_rms),
                 BackwardInDouble(problem, inverse_rms), BackwardBounds(problem));
  }
}

TEST(RmsNormGpuTest, HiddenMayBeTheResidual) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem({67, 2056});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs expected = ForwardOnGpu(gpu, Place::kAligned, problem);
  const TensorView residual = gpu.Upload(problem.residual);
  const TensorView output = PoisonedRows(gpu, Place::kAligned, problem.residual);
  ASSERT_TRUE(RmsNormForward(gpu, {.residual = residual,
                                   .branch = gpu.Upload(problem.branch),
                                   .branch_scale = kBranchScale,
                                   .weight = gpu.Upload(problem.weight),
                                   .epsilon = kEpsilon,
                                   .hidden = residual,
                                   .output = output,
                                   .inverse_rms = gpu.Poisoned(DType::kFloat32, {67})})
                  .ok());
  ExpectSameBits({gpu.Download(residual), gpu.Download(output)}, {expected[0], expected[1]});
}

TEST(RmsNormGpuTest, ResidualGradientMayBeTheHiddenGradient) {
  SKIP_WITHOUT_GPU();
  for (const RowShape& shape : {RowShape{300, 2056}, RowShape{67, 16384}}) {
    const Problem problem = MakeProblem(shape);
    const TestTensor inverse_rms = ForwardInDouble(problem)[2];
    GpuContext gpu(kTestBytes, kTestBytes);
    const Outputs expected = BackwardOnGpu(gpu, Place::kAligned, problem, inverse_rms);
    const TensorView d_hidden = gpu.Upload(problem.d_hidden);
    const TensorView d_weight = gpu.Upload(problem.weight, DType::kFloat32);
    ASSERT_TRUE(RmsNormBackward(gpu, {.hidden = gpu.Upload(problem.residual),
                                      .weight = gpu.Upload(problem.weight),
                                      .inverse_rms = gpu.Upload(inverse_rms, DType::kFloat32),
                                      .d_output = gpu.Upload(problem.d_output),
                                      .d_hidden = d_hidden,
                                      .branch_scale = kBranchScale,
                                      .d_residual = d_hidden,
                                      .d_branch = {},
                                      .d_weight = d_weight})
                    .ok());
    ExpectSameBits({gpu.Download(d_hidden), gpu.Download(d_weight)}, {expected[0], expected[2]});
  }
}

TEST(RmsNormGpuTest, GradientsNotWantedDoNotChangeTheOthers) {
  SKIP_WITHOUT_GPU();
  const Problem problem = MakeProblem({67, 2056});
  const TestTensor inverse_rms = ForwardInDouble(problem)[2];
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs all = BackwardOnGpu(gpu, Place::kAligned, problem, inverse_rms);
  const auto with = [&](const Wanted& wanted) {
    return BackwardOnGpu(gpu, Place::kAligned, problem, inverse_rms, wanted);
  };
  ExpectSameBits({with({true, false, false})[0]}, {all[0]});
  ExpectSameBits({with({false, true, false})[1]}, {all[1]});
  ExpectSameBits({with({false, false, true})[2]}, {all[2]});
}

TEST(RmsNormGpuTest, MissingHiddenGradientIsZero) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem({67, 2056});
  const TestTensor inverse_rms = ForwardInDouble(problem)[2];
  problem.d_hidden = TestTensor(DType::kFloat64, {67, 2056});
  GpuContext gpu(kTestBytes, kTestBytes);
  const Outputs zero = BackwardOnGpu(gpu, Place::kAligned, problem, inverse_rms);
  problem.d_hidden = TestTensor();
  ExpectSameBits(BackwardOnGpu(gpu, Place::kAligned, problem, inverse_rms), zero);
}

TEST(RmsNormGpuTest, PoisonedRowStaysAlone) {
  SKIP_WITHOUT_GPU();
  Problem problem = MakeProblem({45, 100});
  const TestTensor inverse_rms = ForwardInDouble(problem)[2];
  GpuContext gpu(kTestBytes, kTestBytes);
  const auto run = [&] {
    Outputs outputs = ForwardOnGpu(gpu, Place::kAligned, problem);
    const Outputs gradients = BackwardOnGpu(gpu, Place::kAligned, problem, inverse_rms);
    outputs.insert(outputs.end(), {gradients[0], gradients[1]});
    return outputs;
  };
  const Outputs before = run();
  for (TestTensor* tensor : {&problem.residual, &problem.d_output}) tensor->PoisonRows(17, 1);
  ExpectOtherRowsSame(run(), before, 17);
}

TEST(RmsNormGpuTest, RowTooWideIsRefusedWithTheLimit) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTestBytes, kTestBytes);
  const TensorView rows = gpu.Zeros(DType::kBFloat16, {1, 16392});
  const TensorView weight = gpu.Zeros(DType::kBFloat16, {16392});
  const TensorView inverse_rms = gpu.Zeros(DType::kFloat32, {1});
  ExpectUnimplemented(RmsNormForward(gpu, {.residual = rows,
                                           .branch = {},
                                           .weight = weight,
                                           .hidden = {},
                                           .output = rows,
                                           .inverse_rms = inverse_rms}),
                      {"RmsNormForward", "16392", "16384", "device: cpu"});
  ExpectUnimplemented(RmsNormBackward(gpu, {.hidden = rows,
                                            .weight = weight,
                                            .inverse_rms = inverse_rms,
                                            .d_output = rows,
                                            .d_hidden = {},
                                            .d_residual = rows,
                                            .d_branch = {},
                                            .d_weight = {}}),
                      {"RmsNormBackward", "16392", "16384", "device: cpu"});
}

}  // namespace
}  // namespace salamander
