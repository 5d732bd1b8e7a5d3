// The whole model on the GPU: forward, loss and backward against the same model in fp64 on the CPU,
// the same bits from run to run, and no path from one document to another.
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "model/transformer.h"
#include "tests/gpu/model_on_gpu.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kTensorBytes = int64_t{16} << 20;
constexpr int64_t kScratchBytes = int64_t{256} << 20;

// One token; one that fills no tile; long enough for every layer to be sparse.
const std::vector<int64_t> kDocuments = {1, 70, 13, 30, 130};

class TransformerGpuTest : public testing::TestWithParam<ModelCase> {
 protected:
  const ModelConfig& config() const { return GetParam().config; }
  PackedStream Stream() const { return RandomStream(kDocuments, config().vocabulary, 5); }
};

TEST_P(TransformerGpuTest, LossAndGradientsMatchTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const ModelWeights weights = ExactWeights(config(), 11);
  const TestContext cpu;
  const PlacedModel exact_model(weights, OnCpu(cpu));
  const Outcome exact = RunModel(exact_model, *NextTokenObjective(exact_model), Stream());
  const Spread spread = SpreadOf(weights, NextTokenObjective, Stream(), exact);
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(weights, On(gpu));
  ExpectWithinSpread(RunModel(model, *NextTokenObjective(model), Stream()), exact, spread,
                     weights.layout);
}

TEST_P(TransformerGpuTest, TwoRunsGiveTheSameBitsAndSoDoesWhatIsComputedAgain) {
  SKIP_WITHOUT_GPU();
  const ModelWeights weights = ExactWeights(config(), 12);
  const auto run = [&](std::vector<Recomputation> recomputation) {
    GpuContext gpu(kTensorBytes, kScratchBytes);
    const PlacedModel model(weights, On(gpu));
    return RunModel(model, *LanguageModelObjective(model.transformer(), std::move(recomputation)),
                    Stream());
  };
  const Outcome first = run({});
  const size_t layers = config().layers.size();
  for (const Recomputation again :
       {Recomputation::kNone, Recomputation::kAttention, Recomputation::kFull}) {
    const Outcome other = run(std::vector<Recomputation>(layers, again));
    EXPECT_EQ(other.loss, first.loss);
    EXPECT_TRUE(BitwiseEqual(other.hidden.View(), first.hidden.View()));
    EXPECT_TRUE(BitwiseEqual(other.gradients.View(), first.gradients.View()));
  }
}

TEST_P(TransformerGpuTest, MicroBatchesThatAreReplayedGiveTheBitsOfDirectOnes) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(ExactWeights(config(), 14), On(gpu));
  const auto objective = NextTokenObjective(model);
  const std::unique_ptr<Replay> replay = gpu.session().NewReplay();
  for (const uint64_t seed : {1U, 2U, 3U, 4U, 5U}) {  // cut alike, but for the fourth
    const PackedStream stream = seed == 4 ? RandomStream({50, 64}, config().vocabulary, seed)
                                          : RandomStream(kDocuments, config().vocabulary, seed);
    const Outcome direct = RunModel(model, *objective, stream);
    const Outcome replayed = RunModel(model, *objective, stream, replay.get());
    EXPECT_EQ(replayed.loss, direct.loss) << "stream " << seed;
    EXPECT_TRUE(BitwiseEqual(replayed.gradients.View(), direct.gradients.View())) << seed;
  }
}

TEST_P(TransformerGpuTest, OtherDocumentsIgnoreAChangedToken) {
  SKIP_WITHOUT_GPU();
  const ModelWeights weights = ExactWeights(config(), 13);
  // Documents 1 and 4 alone use the upper half of the vocabulary: the gradients of its rows in the
  // embedding table are theirs, and show what the backward sends into their tokens.
  const auto half = static_cast<int32_t>(config().vocabulary / 2);
  PackedStream stream = Stream();
  const auto is_upper = [](int64_t row) { return (row >= 1 && row < 71) || row >= 114; };
  for (int64_t row = 0; row < stream.size(); ++row) {
    int32_t& token = stream.tokens[static_cast<size_t>(row)];
    token = token % half + (is_upper(row) ? half : 0);
  }
  struct Passed {
    TestTensor hidden, embedding_gradient;
  };
  const auto pass_through = [&] {
    GpuContext gpu(kTensorBytes, kScratchBytes);
    const ExecutionContext& execution = gpu;
    const PlacedModel model(weights, On(gpu));
    const ArenaScope scope(*execution.arena);
    const auto pass = PassOver(execution, stream);
    SALAMANDER_CHECK(pass.ok());
    Activations saved;
    const auto hidden = model.transformer().Forward(*pass, &saved);
    SALAMANDER_CHECK(hidden.ok()) << hidden.status().ToString();
    Passed passed{.hidden = gpu.Download(*hidden), .embedding_gradient = {}};
    const auto buffer = ParameterBuffer::Create(model.layout(), DType::kFloat32, gpu.session());
    SALAMANDER_CHECK(buffer.ok());
    const ModelTensors gradients = BindTensors(config(), model.layout(), *buffer);
    const TensorView d_hidden =
        gpu.Upload(TestTensor::Normal(DType::kFloat32, {stream.size(), config().width}, 9));
    const absl::Status status = model.transformer().Backward(*pass, saved, d_hidden, gradients);
    SALAMANDER_CHECK(status.ok()) << status.ToString();
    passed.embedding_gradient = gpu.Download(gradients.embedding);
    return passed;
  };
  const Passed before = pass_through();
  stream.tokens[73] = (stream.tokens[73] + 1) % half;  // in document 2
  const Passed after = pass_through();
  const auto rows_stay = [&](int64_t begin, int64_t count) {
    return BitwiseEqual(after.hidden.View().Rows(begin, count),
                        before.hidden.View().Rows(begin, count));
  };
  EXPECT_TRUE(rows_stay(0, 73));
  EXPECT_FALSE(rows_stay(73, 11));
  EXPECT_TRUE(rows_stay(84, stream.size() - 84));
  const auto gradients_stay = [&](int64_t begin, int64_t count) {
    return BitwiseEqual(after.embedding_gradient.View().Rows(begin, count),
                        before.embedding_gradient.View().Rows(begin, count));
  };
  EXPECT_FALSE(gradients_stay(0, half));
  EXPECT_TRUE(gradients_stay(half, config().vocabulary - half));
}

INSTANTIATE_TEST_SUITE_P(Models, TransformerGpuTest, testing::ValuesIn(ModelCases()),
                         [](const auto& given) { return given.param.name; });

// Documents of many tiles, whose gradients cuDNN would add up in another order each time.
class DeterministicGpuTest : public testing::Test {
 protected:
  PackedStream Stream(const std::vector<int64_t>& documents) const {
    return RandomStream(documents, weights_.config.vocabulary, 5);
  }
  Outcome RunOnGpu(const PackedStream& stream) const {
    GpuContext gpu(kTensorBytes, kScratchBytes, kDeterministic);
    const PlacedModel model(weights_, On(gpu));
    return RunModel(model, *NextTokenObjective(model), stream);
  }

  ModelWeights weights_ = ExactWeights(SmallDenseConfig(2, 64), 14);
};

TEST_F(DeterministicGpuTest, LossAndGradientsMatchTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const PackedStream stream = Stream({300, 1, 600, 130});
  const TestContext cpu;
  const PlacedModel exact_model(weights_, OnCpu(cpu));
  const Outcome exact = RunModel(exact_model, *NextTokenObjective(exact_model), stream);
  const Spread spread = SpreadOf(weights_, NextTokenObjective, stream, exact);
  ExpectWithinSpread(RunOnGpu(stream), exact, spread, weights_.layout);
}

TEST_F(DeterministicGpuTest, RunsOverThousandsOfTokensGiveTheSameBits) {
  SKIP_WITHOUT_GPU();
  const PackedStream stream = Stream({2500, 40, 700});
  const Outcome first = RunOnGpu(stream);
  for (int repeat = 0; repeat < 3; ++repeat) {
    const Outcome again = RunOnGpu(stream);
    EXPECT_EQ(again.loss, first.loss);
    EXPECT_TRUE(BitwiseEqual(again.hidden.View(), first.hidden.View()));
    EXPECT_TRUE(BitwiseEqual(again.gradients.View(), first.gradients.View()));
  }
}

// A student and, on the same device, the teacher it learns from.
TEST(ObjectiveGpuTest, DistillationMatchesTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const ModelWeights weights = ExactWeights(SmallHybridConfig(3, {1}, 32), 21);
  const ModelWeights teacher_weights = ExactWeights(SmallDenseConfig(2, 32), 22);
  const PackedStream stream = RandomStream(kDocuments, 100, 5);
  const TestContext cpu;
  const PlacedModel exact_teacher(teacher_weights, OnCpu(cpu));
  const auto objective_of = [](const PlacedModel& teacher) {
    return [&teacher](const PlacedModel& model) {
      return DistillationObjective(model.transformer(), teacher.transformer());
    };
  };
  const PlacedModel exact_model(weights, OnCpu(cpu));
  const Outcome exact = RunModel(exact_model, *objective_of(exact_teacher)(exact_model), stream);
  const Spread spread = SpreadOf(weights, objective_of(exact_teacher), stream, exact);
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel teacher(teacher_weights, On(gpu)), model(weights, On(gpu));
  ExpectWithinSpread(RunModel(model, *objective_of(teacher)(model), stream), exact, spread,
                     weights.layout);
}

// Candidates beside their layers: each layer's inputs and targets come from the layers before it.
TEST(ObjectiveGpuTest, AlignmentMatchesTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const auto config = CandidateConfig(SmallDenseConfig(2, 64));
  ASSERT_TRUE(config.ok());
  const ModelWeights weights = ExactWeights(*config, 23);
  const PackedStream stream = RandomStream(kDocuments, 100, 5);
  const auto objective_of = [](const PlacedModel& model) {
    return AlignmentObjective(model.transformer());
  };
  const TestContext cpu;
  const PlacedModel exact_model(weights, OnCpu(cpu));
  const Outcome exact = RunModel(exact_model, *objective_of(exact_model), stream);
  const Spread spread = SpreadOf(weights, objective_of, stream, exact);
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(weights, On(gpu));
  ExpectWithinSpread(RunModel(model, *objective_of(model), stream), exact, spread, weights.layout);
}

class BadInputGpuTest : public testing::Test {
 protected:
  // The status of a pass that only the wait at its end can know.
  static absl::Status LossStatus(const PlacedModel& model, const PackedStream& stream) {
    return SumLoss(model.place().execution, *NextTokenObjective(model),
                   absl::MakeConstSpan(&stream, 1))
        .status();
  }
};

TEST_F(BadInputGpuTest, ForeignTokensAndTargetsAreNamedAndTheNextPassIsSound) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const ModelWeights weights = ExactWeights(SmallHybridConfig(2, {0}, 32), 31);
  const PlacedModel model(weights, On(gpu));
  const PackedStream sound = RandomStream({20, 30}, 100, 5);
  const Outcome before = RunModel(model, *NextTokenObjective(model), sound);

  PackedStream foreign_token = sound;
  foreign_token.tokens[7] = 1000;
  EXPECT_THAT(std::string(LossStatus(model, foreign_token).message()),
              HasSubstr("token 1000 in row 7 lies outside the vocabulary of 100"));
  PackedStream negative_token = sound;
  negative_token.tokens[49] = -1;
  EXPECT_THAT(std::string(LossStatus(model, negative_token).message()),
              HasSubstr("token -1 in row 49 lies outside the vocabulary of 100"));
  PackedStream foreign_target = sound;
  foreign_target.targets[3] = 100;
  EXPECT_THAT(std::string(LossStatus(model, foreign_target).message()),
              HasSubstr("target 100 in row 3 lies outside the vocabulary of 100"));

  const Outcome after = RunModel(model, *NextTokenObjective(model), sound);
  EXPECT_EQ(after.loss, before.loss);
  EXPECT_TRUE(BitwiseEqual(after.gradients.View(), before.gradients.View()));
}

TEST_F(BadInputGpuTest, AModelTooWideForAKernelGivesOneClearError) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = SmallDenseConfig(1, 16);
  config.width = 16448;
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(ExactWeights(config, 32), On(gpu));
  const absl::Status status = LossStatus(model, RandomStream({5}, 100, 5));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("16448"), HasSubstr("16384"), HasSubstr("use device: cpu")));
}

TEST_F(BadInputGpuTest, AHeadDimThatLightningIsNotBuiltForIsNamed) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(ExactWeights(SmallHybridConfig(2, {}, 24), 33), On(gpu));
  const absl::Status status = LossStatus(model, RandomStream({5}, 100, 5));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("head dim 24 on CUDA"), HasSubstr("device: cpu")));
}

}  // namespace
}  // namespace salamander
