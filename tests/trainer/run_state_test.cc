// What a run's state does for the sake of a device, on one that is none.
#include "trainer/run/run_state.h"

#include <memory>

#include <gtest/gtest.h>

#include "data/tokens/token_file.h"
#include "kernels/base/status_macros.h"
#include "tests/model/tiny_model.h"
#include "tests/storage/temporary_directory.h"
#include "tests/support/random_tensor.h"
#include "tests/trainer/fake_device.h"

namespace salamander {
namespace {

class RunStateTest : public testing::Test {
 protected:
  void SetUp() override {
    const TinyModel model(TinyDenseConfig(2), DType::kFloat32, 5);
    ASSERT_TRUE(SaveModel(directory_ / "model.ckpt", model.weights, {}, *alone_).ok());
    const auto tokenizer = MakeIdTokenizer(24, -1, -1);
    ASSERT_TRUE(tokenizer.ok());
    auto writer = TokenFileWriter::Create(directory_ / "data.h5", **tokenizer, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->AddDocument(std::vector<int32_t>(100, 7), {}).ok());
    ASSERT_TRUE((*writer)->Finish().ok());
    recipe_.name = "test";
    recipe_.run_directory = directory_ / "run";
    recipe_.model.from = directory_ / "model.ckpt";
    recipe_.data["text"] = {.path = directory_ / "data.h5"};
    auto data = RunData::Open(recipe_);
    ASSERT_TRUE(data.ok()) << data.status();
    data_ = std::make_unique<RunData>(*std::move(data));
    auto parallel = ParallelContext::Create(*alone_, {}, {});
    ASSERT_TRUE(parallel.ok()) << parallel.status();
    parallel_ = std::make_unique<ParallelContext>(*std::move(parallel));
  }

  std::unique_ptr<RunState> Begin(const Workspace& workspace) {
    auto state = RunState::Begin(recipe_, *data_, workspace, *parallel_);
    SALAMANDER_CHECK(state.ok()) << state.status().ToString();
    return *std::move(state);
  }

  // A step with gradients of one, so that masters, moments and rounded weights all move.
  void Step(RunState& state, Workspace& workspace) {
    ASSERT_TRUE(workspace.ReserveArena(*alone_).ok());
    auto gradients = ParameterBuffer::Create(state.layout(), DType::kFloat32);
    ASSERT_TRUE(gradients.ok());
    for (int64_t index = 0; index < gradients->Flat().size(); ++index)
      SetElement(gradients->Flat(), index, 1.0);
    state.optimizer->Configure({}, [](const ParameterSpec&) { return ParameterPolicy{}; });
    const auto update =
        state.optimizer->Step(workspace.execution(), 1e-2,
                              {.weights = state.weights(), .gradients = *gradients}, &*parallel_);
    ASSERT_TRUE(update.ok()) << update.status();
    ASSERT_TRUE(update->is_finite);
  }

  static TestTensor MastersOf(const RunState& state) {
    TestTensor masters(DType::kFloat32, {state.layout().total_size()});
    for (const ShardLayout::Piece& piece : state.optimizer->shard().pieces()) {
      const TensorView from = state.optimizer->Masters(state.weights(), piece);
      for (int64_t index = 0; index < piece.count; ++index)
        masters.Set(piece.flat_begin + index, ElementAt(from, index));
    }
    return masters;
  }

  static void ExpectRoundedMasters(const RunState& state) {
    EXPECT_EQ(state.weights().Flat().dtype(), DType::kBFloat16);
    EXPECT_TRUE(BitwiseEqual(state.weights().Flat(), MastersOf(state).As(DType::kBFloat16).View()));
  }

  static void ExpectSameState(const RunState& a, const RunState& b) {
    EXPECT_TRUE(BitwiseEqual(MastersOf(a).View(), MastersOf(b).View()));
    EXPECT_TRUE(BitwiseEqual(a.optimizer->first_moment(), b.optimizer->first_moment()));
    EXPECT_TRUE(BitwiseEqual(a.optimizer->second_moment(), b.optimizer->second_moment()));
    EXPECT_EQ(a.optimizer->step(), b.optimizer->step());
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Communicator> alone_ = SingleRankCommunicator();
  Recipe recipe_;
  std::unique_ptr<RunData> data_;
  std::unique_ptr<ParallelContext> parallel_;
};

TEST_F(RunStateTest, OnTheCpuMastersAreWhatTheModelReads) {
  const Workspace workspace(CpuSession());
  const std::unique_ptr<RunState> state = Begin(workspace);
  EXPECT_TRUE(BitwiseEqual(MastersOf(*state).View(), state->weights().Flat()));
}

TEST_F(RunStateTest, OnADeviceTheModelReadsTheMastersRounded) {
  FakeDevice device;
  Workspace workspace(device);
  const std::unique_ptr<RunState> state = Begin(workspace);
  ExpectRoundedMasters(*state);
  Step(*state, workspace);
  ExpectRoundedMasters(*state);
}

TEST_F(RunStateTest, ARunSavedOnADeviceGoesOnOnTheCpuAndBack) {
  FakeDevice device;
  Workspace on_device(device), on_cpu(CpuSession());
  const std::unique_ptr<RunState> state = Begin(on_device);
  Step(*state, on_device);
  ASSERT_TRUE(state->Save(directory_ / "one.ckpt", recipe_).ok());

  const std::unique_ptr<RunState> cpu_state = Begin(on_cpu);
  ASSERT_TRUE(cpu_state->Restore(directory_ / "one.ckpt", recipe_).ok());
  ExpectSameState(*cpu_state, *state);
  Step(*cpu_state, on_cpu);
  ASSERT_TRUE(cpu_state->Save(directory_ / "two.ckpt", recipe_).ok());

  FakeDevice other;
  const Workspace on_other(other);
  const std::unique_ptr<RunState> back = Begin(on_other);
  ASSERT_TRUE(back->Restore(directory_ / "two.ckpt", recipe_).ok());
  ExpectSameState(*back, *cpu_state);
  ExpectRoundedMasters(*back);
}

}  // namespace
}  // namespace salamander
