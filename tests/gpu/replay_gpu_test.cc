// Ops that are enqueued again and again as one graph: the same bits as enqueued one by one, with
// new values, new addresses, other lengths and other ops. And ops that are only planned.
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/base/status_macros.h"
#include "kernels/embedding.h"
#include "kernels/lightning_attention.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "tests/gpu/gpu_context.h"

namespace salamander {
namespace {

constexpr int64_t kTensorBytes = int64_t{64} << 20;
constexpr int64_t kScratchBytes = int64_t{64} << 20;
constexpr int64_t kVocabulary = 50, kHeads = 2, kDim = 32, kWidth = kHeads * kDim;

class ReplayGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    gpu_ = std::make_unique<GpuContext>(kTensorBytes, kScratchBytes);
    table_ = gpu_->Upload(TestTensor::Normal(DType::kFloat32, {kVocabulary, kWidth}, 1));
    norm_ = gpu_->Upload(TestTensor::Normal(DType::kFloat32, {kWidth}, 2));
    weight_ = gpu_->Upload(TestTensor::Normal(DType::kFloat32, {kWidth, kWidth}, 3));
    states_ = gpu_->Zeros(DType::kFloat32, {1, kHeads, kDim, kDim});
    result_ = gpu_->Poisoned(DType::kBFloat16, {kMostTokens, kWidth});
  }

  // Every kind of work there is: an upload, a fill, kernels, a library's call, a kernel that plans
  // by the segments' lengths and reads a state that the run before wrote, and a copy.
  absl::Status Enqueue(const std::vector<int32_t>& tokens) {
    const ExecutionContext& context = *gpu_;
    Arena& arena = *context.arena;
    const ArenaScope scope(arena);
    const auto count = static_cast<int64_t>(tokens.size());
    const auto activation = [&] { return arena.Tensor(DType::kBFloat16, {count, kWidth}); };
    const auto heads = [&](const TensorView& rows) { return rows.Reshape({count, kHeads, kDim}); };
    ASSIGN_OR_RETURN(const TensorView ids, FromHost<int32_t>(context, tokens));
    const TensorView embedded = activation(), normalised = activation(), product = activation(),
                     gated = activation(), attended = activation();
    const TensorView inverse = arena.Tensor(DType::kFloat32, {count});
    RETURN_IF_ERROR(Zero(context, product));
    RETURN_IF_ERROR(EmbeddingForward(context, {ids, table_, embedded, 1.0}));
    RETURN_IF_ERROR(RmsNormForward(context, {.residual = embedded,
                                             .branch = {},
                                             .weight = norm_,
                                             .epsilon = 1e-6,
                                             .hidden = {},
                                             .output = normalised,
                                             .inverse_rms = inverse}));
    RETURN_IF_ERROR(LinearForward(
        context, {.input = normalised, .weight = weight_, .output = product, .accumulate = true}));
    RETURN_IF_ERROR(SwigluForward(context, {product, normalised, gated}));
    const Segment segment{.query_count = count, .state_in = 0, .state_out = 0};
    const std::vector<double> slopes(kHeads, 0.1);
    RETURN_IF_ERROR(LightningForward(context, {.q = heads(gated),
                                               .k = heads(normalised),
                                               .v = heads(product),
                                               .slopes = slopes,
                                               .segments = absl::MakeConstSpan(&segment, 1),
                                               .scale = 0.5,
                                               .states = states_,
                                               .out = heads(attended)}));
    return Copy(context, attended, result_.Rows(0, count));
  }

  // The results of runs with these tokens, one behind the other.
  using Way = std::function<absl::Status(const std::function<absl::Status()>&)>;
  std::vector<TestTensor> Results(const std::vector<std::vector<int32_t>>& runs, const Way& way) {
    std::vector<TestTensor> results;
    EXPECT_TRUE(Zero(*gpu_, states_).ok());
    for (const std::vector<int32_t>& tokens : runs) {
      const absl::Status status = way([&] { return Enqueue(tokens); });
      EXPECT_TRUE(status.ok()) << status;
      results.push_back(gpu_->Download(result_.Rows(0, static_cast<int64_t>(tokens.size()))));
    }
    return results;
  }

  void ExpectReplayEqualsDirect(const std::vector<std::vector<int32_t>>& runs) {
    const std::vector<TestTensor> direct =
        Results(runs, [](const auto& enqueue) { return enqueue(); });
    const std::unique_ptr<Replay> replay = gpu_->session().NewReplay();
    const std::vector<TestTensor> replayed =
        Results(runs, [&](const auto& enqueue) { return replay->Run(enqueue); });
    for (size_t run = 0; run < runs.size(); ++run)
      EXPECT_TRUE(BitwiseEqual(direct[run].View(), replayed[run].View())) << "run " << run;
  }

  static std::vector<int32_t> Tokens(int64_t count, int32_t first) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i)
      tokens.push_back(static_cast<int32_t>((first + 7 * i) % kVocabulary));
    return tokens;
  }

  static constexpr int64_t kMostTokens = 700;
  std::unique_ptr<GpuContext> gpu_;
  TensorView table_, norm_, weight_, states_, result_;
};

TEST_F(ReplayGpuTest, NewValuesGiveTheBitsOfDirectRuns) {
  ExpectReplayEqualsDirect({Tokens(1, 0), Tokens(1, 9), Tokens(1, 3), Tokens(1, 44), Tokens(1, 5)});
}

TEST_F(ReplayGpuTest, OtherLengthsAreRecordedAnew) {
  ExpectReplayEqualsDirect({Tokens(3, 0), Tokens(3, 9), Tokens(3, 3), Tokens(90, 44), Tokens(90, 5),
                            Tokens(700, 1), Tokens(700, 2), Tokens(1, 2)});
}

// The lengths differ only in what comes last, when all before is revised already.
TEST_F(ReplayGpuTest, WorkThatDivergesLateIsStillRight) {
  const ExecutionContext& context = *gpu_;
  const std::unique_ptr<Replay> replay = gpu_->session().NewReplay();
  for (const int64_t rows : {3, 3, 3, 3, 40, 40, 40, 7}) {
    const TestTensor values =
        TestTensor::Normal(DType::kFloat32, {4 * kWidth}, static_cast<uint64_t>(100 + rows));
    const std::vector<float> host(values.Elements<float>().begin(), values.Elements<float>().end());
    const auto enqueue = [&]() -> absl::Status {
      const ArenaScope scope(*context.arena);
      ASSIGN_OR_RETURN(const TensorView uploaded, FromHost<float>(context, host));
      const TensorView input = context.arena->Tensor(DType::kBFloat16, {4, kWidth});
      RETURN_IF_ERROR(Convert(context, uploaded.Reshape({4, kWidth}), input));
      RETURN_IF_ERROR(LinearForward(
          context, {.input = input, .weight = weight_, .output = result_.Rows(0, 4)}));
      RETURN_IF_ERROR(Zero(context, result_.Rows(4, rows)));
      return Copy(context, result_.Rows(0, 2), result_.Rows(4 + rows, 2));
    };
    ASSERT_TRUE(enqueue().ok());
    const TestTensor direct = gpu_->Download(result_.Rows(0, 6 + rows));
    ASSERT_TRUE(Zero(context, result_.Rows(0, 6 + rows)).ok());
    const absl::Status status = replay->Run(enqueue);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(BitwiseEqual(gpu_->Download(result_.Rows(0, 6 + rows)).View(), direct.View()))
        << rows << " rows";
  }
}

TEST_F(ReplayGpuTest, AnOpsOwnErrorIsReturnedAndLeavesTheReplayOfUse) {
  const std::unique_ptr<Replay> replay = gpu_->session().NewReplay();
  for (int run = 0; run < 8; ++run) {
    const bool fails = run == 3 || run == 6;
    const absl::Status status = replay->Run([&]() -> absl::Status {
      RETURN_IF_ERROR(Enqueue(Tokens(5, run)));
      return fails ? absl::InvalidArgumentError("an op's own") : absl::OkStatus();
    });
    EXPECT_EQ(status.code(), fails ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kOk)
        << "run " << run << ": " << status;
    ASSERT_TRUE(gpu_->Wait().ok());
  }
}

TEST_F(ReplayGpuTest, RunsThatAreNeverAlikeGiveTheBitsOfDirectOnesToo) {
  std::vector<std::vector<int32_t>> runs;
  for (int32_t run = 0; run < 90; ++run) runs.push_back(Tokens(1 + run * 37 % 60, run));
  ExpectReplayEqualsDirect(runs);
}

TEST_F(ReplayGpuTest, OtherPlacesOfTheArenaAreFollowed) {
  const ExecutionContext& context = *gpu_;
  const std::unique_ptr<Replay> replay = gpu_->session().NewReplay();
  const TestTensor values = TestTensor::Normal(DType::kFloat32, {64}, 9);
  const TensorView source = gpu_->Upload(values);
  for (int64_t offset = 0; offset < 6; ++offset) {
    const ArenaScope scope(*context.arena);
    context.arena->Allocate(offset * 4096);
    const TensorView copy = context.arena->Tensor(DType::kBFloat16, {64});
    const TensorView sum = context.arena->Tensor(DType::kFloat32, {64});
    ASSERT_TRUE(replay
                    ->Run([&]() -> absl::Status {
                      RETURN_IF_ERROR(Copy(context, source, copy));
                      return Convert(context, copy, sum);
                    })
                    .ok());
    EXPECT_TRUE(BitwiseEqual(gpu_->Download(sum).View(),
                             values.As(DType::kBFloat16).As(DType::kFloat32).View()))
        << "offset " << offset;
  }
}

TEST_F(ReplayGpuTest, AFaultInAReplayShowsAtTheNextWait) {
  const std::unique_ptr<Replay> replay = gpu_->session().NewReplay();
  for (int run = 0; run < 3; ++run) {
    ASSERT_TRUE(replay->Run([&] { return Enqueue({1}); }).ok());
    ASSERT_TRUE(gpu_->Wait().ok());
  }
  ASSERT_TRUE(replay->Run([&] { return Enqueue({kVocabulary}); }).ok());
  EXPECT_FALSE(gpu_->Wait().ok());
}

TEST_F(ReplayGpuTest, WaitingInsideARecordingIsRefused) {
  const std::unique_ptr<Replay> replay = gpu_->session().NewReplay();
  const auto download = [&] {
    float value = 0;
    return CopyToHost(*gpu_, states_.Reshape({kHeads * kDim * kDim}).Rows(0, 1), &value);
  };
  ASSERT_TRUE(replay->Run(download).ok());  // the first run is no recording
  EXPECT_EQ(replay->Run(download).code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(gpu_->Wait().ok());
}

TEST_F(ReplayGpuTest, PlanningTakesTheSameMemoryAndComputesNothing) {
  const std::vector<int32_t> tokens = Tokens(700, 1);
  Arena addresses = Arena::Planned();
  const ExecutionContext planned = gpu_->session().Context(addresses);
  const ExecutionContext& direct = *gpu_;
  const auto enqueue = [&](const ExecutionContext& context) -> absl::Status {
    const ArenaScope scope(*context.arena);
    const TensorView rows = context.arena->Tensor(DType::kFloat32, {700, kWidth});
    ASSIGN_OR_RETURN(const TensorView ids, FromHost<int32_t>(context, tokens));
    const TensorView embedded = context.arena->Tensor(DType::kBFloat16, {700, kWidth});
    RETURN_IF_ERROR(EmbeddingForward(context, {ids, table_, embedded, 1.0}));
    RETURN_IF_ERROR(Zero(context, rows));
    RETURN_IF_ERROR(EmbeddingBackward(context, {ids, embedded, rows.Rows(0, kVocabulary), 1.0}));
    std::vector<float> on_host(static_cast<size_t>(rows.size()), 1.0F);
    return CopyToHost(context, rows, on_host.data());
  };
  ASSERT_TRUE(gpu_->session().Plan([&] { return enqueue(planned); }).ok());
  direct.arena->ForgetPeak();
  ASSERT_TRUE(enqueue(direct).ok());
  EXPECT_GT(addresses.peak_bytes(), 0);
  EXPECT_EQ(addresses.peak_bytes(), direct.arena->peak_bytes());
}

}  // namespace
}  // namespace salamander
