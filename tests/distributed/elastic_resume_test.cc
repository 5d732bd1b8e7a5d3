// On four ranks: a run saved in one layout of ranks goes on in any other, with the same bits of
// weights and moments and the same batches to come.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "data/storage/checksum.h"
#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"
#include "tests/distributed/sharded_state.h"
#include "tests/distributed/world.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/trainer/fake_device.h"
#include "trainer/run/run_state.h"

namespace salamander {
namespace {

constexpr int64_t kBatch = 8;
constexpr int64_t kBatchesToCome = 20;

std::string NameOf(const MeshShape& shape) {
  return absl::StrCat(shape.data, " x ", shape.context, " x ", shape.tensor);
}

std::vector<MeshShape> AllShapes() {
  std::vector<MeshShape> shapes;
  for (const int ranks : {1, 2, 4}) {
    for (const MeshShape& shape : MeshesOf(ranks)) shapes.push_back(shape);
  }
  return shapes;
}

// One of a mesh's ranks, on a device of its own.
struct Place {
  Place(DeviceSession& session, std::unique_ptr<Communicator> group, const MeshShape& shape)
      : ranks(std::move(group)),
        workspace(session),
        parallel(*ParallelContext::Create(*ranks, shape, workspace.execution())) {
    SALAMANDER_CHECK(workspace.ReserveArena(*ranks).ok());
  }

  std::unique_ptr<Communicator> ranks;
  Workspace workspace;
  ParallelContext parallel;
};

class ElasticResumeTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(World().size(), 4);
    const TinyModel model(SplittableConfig(), DType::kFloat32, 5);
    const absl::Status saved = SaveModel(directory_ / "model.ckpt", model.weights, {}, World());
    ASSERT_TRUE(saved.ok()) << saved;
    if (World().rank() == 0) WriteTokens();
    ASSERT_TRUE(World().Barrier().ok());
    recipe_.name = "elastic";
    recipe_.run_directory = directory_ / "run";
    recipe_.model.from = directory_ / "model.ckpt";
    recipe_.data["text"] = {.path = directory_ / "data.h5", .lanes = 2};
    StageConfig stage;
    stage.name = "lm";
    stage.sequence_length = 64;
    stage.batch_tokens = kBatch * 64;
    stage.tokens = 1000 * stage.batch_tokens;
    stage.learning_rate.peak = 1e-3;
    stage.mixture = {{"text", 1.0}};
    recipe_.stages = {stage};
    auto data = RunData::Open(recipe_);
    ASSERT_TRUE(data.ok()) << data.status();
    data_ = std::make_unique<RunData>(*std::move(data));
  }

  void WriteTokens() {
    const auto tokenizer = MakeIdTokenizer(48, -1, -1);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    auto writer = TokenFileWriter::Create(directory_ / "data.h5", **tokenizer, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int32_t document = 0; document < 300; ++document) {
      std::vector<int32_t> tokens;
      for (int32_t index = 0; index < 20 + document % 90; ++index)
        tokens.push_back((document * 7 + index * index) % 48);
      ASSERT_TRUE((*writer)->AddDocument(tokens, {}).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
  }

  // The ranks of a mesh that has fewer than the world; null on the others. Collective.
  static std::unique_ptr<Place> PlaceIn(DeviceSession& session, const MeshShape& shape) {
    const bool is_in = World().rank() < shape.ranks();
    auto group = World().Split(is_in ? 0 : 1, "part");
    SALAMANDER_CHECK(group.ok()) << group.status().ToString();
    return is_in ? std::make_unique<Place>(session, *std::move(group), shape) : nullptr;
  }

  // Numbers that tell every element of every tensor apart from its neighbours.
  static void FillState(RunState& state) {
    const auto fill = [&](const ShardLayout::Piece& piece, const TensorView& values,
                          uint64_t draw) {
      const ParameterSpec& spec = state.layout().specs()[piece.parameter];
      for (int64_t index = 0; index < piece.count; ++index)
        SetElement(values, index, Value(spec, spec.WholeIndex(piece.begin + index), draw));
    };
    for (const ShardLayout::Piece& piece : state.optimizer->shard().pieces()) {
      fill(piece, state.optimizer->Masters(state.weights(), piece), 1);
      fill(piece, state.optimizer->first_moment().Rows(piece.shard_begin, piece.count), 2);
      fill(piece, state.optimizer->second_moment().Rows(piece.shard_begin, piece.count), 3);
    }
    state.optimizer->set_step(17);
    state.progress.stage_step = 5;
    state.progress.global_step = 5;
    state.progress.tokens = 5 * kBatch * 64;
  }
  static double Value(const ParameterSpec& spec, int64_t whole_index, uint64_t draw) {
    return ExactValue(spec, whole_index, draw) + static_cast<float>(whole_index) * 4.0F;
  }

  static void ExpectState(const RunState& state) {
    const auto expect = [&](const ShardLayout::Piece& piece, const TensorView& values,
                            uint64_t draw) {
      const ParameterSpec& spec = state.layout().specs()[piece.parameter];
      for (int64_t index = 0; index < piece.count; ++index) {
        ASSERT_EQ(ElementAt(values, index), Value(spec, spec.WholeIndex(piece.begin + index), draw))
            << spec.name << " " << piece.begin + index << ", draw " << draw;
      }
    };
    for (const ShardLayout::Piece& piece : state.optimizer->shard().pieces()) {
      expect(piece, state.optimizer->Masters(state.weights(), piece), 1);
      expect(piece, state.optimizer->first_moment().Rows(piece.shard_begin, piece.count), 2);
      expect(piece, state.optimizer->second_moment().Rows(piece.shard_begin, piece.count), 3);
    }
    // What the passes read is whole on every rank.
    const DType dtype = state.weights().Flat().dtype();
    for (const ParameterSpec& spec : state.layout().specs()) {
      TestTensor expected(DType::kFloat32, {spec.size()});
      for (int64_t index = 0; index < spec.size(); ++index)
        expected.Set(index, Value(spec, spec.WholeIndex(index), 1));
      EXPECT_TRUE(BitwiseEqual(state.weights().View(spec).Reshape({spec.size()}),
                               expected.As(dtype).View()))
          << spec.name;
    }
    EXPECT_EQ(state.optimizer->step(), 17);
    EXPECT_EQ(state.progress.stage_step, 5);
  }

  // Of the batches that come next, in the order of data ranks.
  std::string BatchesToCome(const RunState& state) const {
    const Communicator& data = state.parallel->data();
    const auto sequences =
        data_->StageSequences(recipe_.stages.front(), state.progress.stage_start);
    SALAMANDER_CHECK(sequences.ok()) << sequences.status().ToString();
    const int64_t share = kBatch / data.size();
    std::string hashes;
    for (int64_t step = 0; step < kBatchesToCome; ++step) {
      std::string mine;
      for (int64_t index = 0; index < share; ++index) {
        const int64_t first = (state.progress.stage_step + step) * kBatch;
        const auto sequence = (*sequences)->Sequence(first + data.rank() * share + index);
        SALAMANDER_CHECK(sequence.ok()) << sequence.status().ToString();
        const auto bytes = sequence->tokens.size() * sizeof(sequence->tokens[0]);
        absl::StrAppend(&mine, ChecksumText(ChecksumOf(sequence->tokens.data(), bytes)), " ");
      }
      const auto all = state.parallel->data().AllGather(mine);
      SALAMANDER_CHECK(all.ok()) << all.status().ToString();
      std::string batch;
      for (const std::string& one : *all) batch += one;
      absl::StrAppend(&hashes, ChecksumText(ChecksumOf(batch.data(), batch.size())), "\n");
    }
    return hashes;
  }

  void ExpectGoesOn(DeviceSession& saver, const MeshShape& from, DeviceSession& loader,
                    const MeshShape& to, const std::string& path) {
    std::string before, after;
    if (const auto place = PlaceIn(saver, from)) {
      auto state = RunState::Begin(recipe_, *data_, place->workspace, place->parallel);
      ASSERT_TRUE(state.ok()) << state.status();
      FillState(**state);
      before = BatchesToCome(**state);
      const absl::Status saved = (*state)->Save(path, recipe_);
      ASSERT_TRUE(saved.ok()) << saved;
    }
    ASSERT_TRUE(World().Barrier().ok());
    if (const auto place = PlaceIn(loader, to)) {
      auto state = RunState::Blank(recipe_, *data_, place->workspace, place->parallel);
      ASSERT_TRUE(state.ok()) << state.status();
      const absl::Status restored = (*state)->Restore(path, recipe_);
      ASSERT_TRUE(restored.ok()) << restored;
      ExpectState(**state);
      after = BatchesToCome(**state);
    }
    // Rank 0 is in every mesh.
    if (World().rank() == 0) {
      EXPECT_EQ(after, before);
      EXPECT_TRUE(Checkpoint::Open(path)->Verify().ok());
    }
    ASSERT_TRUE(World().Barrier().ok());
  }

  const SharedDirectory directory_;
  Recipe recipe_;
  std::unique_ptr<RunData> data_;
};

TEST_F(ElasticResumeTest, EveryLayoutGoesOnInEveryOther) {
  int pairs = 0;
  for (const MeshShape& from : AllShapes()) {
    for (const MeshShape& to : AllShapes()) {
      SCOPED_TRACE(absl::StrCat("from ", NameOf(from), " to ", NameOf(to)));
      ExpectGoesOn(CpuSession(), from, CpuSession(), to,
                   directory_ / absl::StrCat("step-", pairs++));
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GE(pairs, 64);
}

TEST_F(ElasticResumeTest, SoDoRunsThatChangeTheDeviceAsWell) {
  const MeshShape by_two{.data = 2, .tensor = 2}, by_context{.context = 4}, one{};
  int step = 0;
  for (const auto& [from, to] :
       {std::pair(by_two, by_context), std::pair(by_context, by_two), std::pair(one, by_two)}) {
    SCOPED_TRACE(absl::StrCat("from ", NameOf(from), " to ", NameOf(to)));
    FakeDevice saver, loader;
    ExpectGoesOn(saver, from, CpuSession(), to, directory_ / absl::StrCat("step-", step++));
    ExpectGoesOn(CpuSession(), from, loader, to, directory_ / absl::StrCat("step-", step++));
    if (HasFatalFailure()) return;
  }
}

TEST_F(ElasticResumeTest, AModelBeginsWithTheSameWeightsInEveryLayout) {
  const TinyModel model(SplittableConfig(), DType::kFloat32, 5);
  for (const MeshShape& shape : AllShapes()) {
    SCOPED_TRACE(NameOf(shape));
    const auto place = PlaceIn(CpuSession(), shape);
    if (place == nullptr) continue;
    const auto state = RunState::Begin(recipe_, *data_, place->workspace, place->parallel);
    ASSERT_TRUE(state.ok()) << state.status();
    for (const ParameterSpec& spec : (*state)->layout().specs()) {
      const TensorView part = (*state)->weights().View(spec), whole = model.weights.View(spec.name);
      for (int64_t index = 0; index < spec.size(); ++index)
        ASSERT_EQ(ElementAt(part, index), ElementAt(whole, spec.WholeIndex(index))) << spec.name;
    }
  }
}

TEST_F(ElasticResumeTest, ARunReshardsItselfThroughItsCheckpoint) {
  const MeshShape from{.data = 2, .tensor = 2}, to{.data = 1, .context = 4, .tensor = 1};
  const auto place = PlaceIn(CpuSession(), from);
  auto state = RunState::Begin(recipe_, *data_, place->workspace, place->parallel);
  ASSERT_TRUE(state.ok()) << state.status();
  FillState(**state);
  const std::string path = directory_ / "step-00000005";
  ASSERT_TRUE((*state)->Save(path, recipe_).ok());
  const auto next = ParallelContext::Create(World(), to, place->workspace.execution());
  ASSERT_TRUE(next.ok()) << next.status();
  const absl::Status moved = (*state)->Reshard(*next, path);
  ASSERT_TRUE(moved.ok()) << moved;
  EXPECT_EQ((*state)->layout().shard().ranks, 1);
  ExpectState(**state);
}

// What one rank cannot read fails all, and none waits for its weights.
TEST_F(ElasticResumeTest, AShardDamagedForOneRankFailsEveryRank) {
  const MeshShape shape{.data = 4};
  const auto place = PlaceIn(CpuSession(), shape);
  const std::string path = directory_ / "step-00000006";
  {
    auto state = RunState::Begin(recipe_, *data_, place->workspace, place->parallel);
    ASSERT_TRUE(state.ok()) << state.status();
    ASSERT_TRUE((*state)->Save(path, recipe_).ok());
  }
  auto state = RunState::Blank(recipe_, *data_, place->workspace, place->parallel);
  ASSERT_TRUE(state.ok()) << state.status();
  const absl::Status status =
      (*state)->Restore(World().rank() == 2 ? directory_ / "step-none" : path, recipe_);
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr(World().rank() == 2 ? "step-none" : "rank 2 failed"));
}

}  // namespace
}  // namespace salamander
