// A model split among tensor ranks, which share a GPU or have one each, against the whole model in
// fp64 on the CPU.
#include <functional>
#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include "absl/types/span.h"

#include "model/parallel/parallel_context.h"
#include "tests/distributed/world.h"
#include "tests/gpu/model_on_gpu.h"
#include "tests/model/model_part.h"

namespace salamander {
namespace {

constexpr int64_t kTensorBytes = int64_t{64} << 20;
constexpr int64_t kScratchBytes = int64_t{256} << 20;

// 248 tokens with padding, which 2 and 4 divide.
const std::vector<int64_t> kDocuments = {1, 70, 13, 30, 129};

template <typename Value>
Value OrDie(absl::StatusOr<Value> value) {
  SALAMANDER_CHECK(value.ok()) << value.status().ToString();
  return *std::move(value);
}

void CheckOk(const absl::Status& status) {
  SALAMANDER_CHECK(status.ok()) << status.ToString();
}

TensorShard Shard() {
  return {.rank = World().rank(), .ranks = World().size()};
}

// A rank's part of a model on its GPU.
struct Part {
  explicit Part(const ModelWeights& whole)
      : gpu(kTensorBytes, kScratchBytes, kDeterministic),
        weights(PartOfWeights(whole, Shard())),
        model(weights, On(gpu)),
        parallel(OrDie(ParallelContext::Create(World(),
                                               {.data = 1, .context = 1, .tensor = World().size()},
                                               gpu, HolderCounts(whole.config, World().size())))) {}

  GpuContext gpu;
  ModelWeights weights;
  PlacedModel model;
  ParallelContext parallel;
};

// The whole's outcome on every rank, made of every rank's.
Outcome Assembled(const Outcome& part, const ParameterLayout& layout, const ModelWeights& whole) {
  Outcome outcome{.loss = part.loss, .hidden = {}, .gradients = {}};
  const TensorView rows = part.hidden.View();
  outcome.hidden = TestTensor(rows.dtype(), {rows.dim(0) * World().size(), rows.dim(1)});
  CheckOk(World().AllGather(rows, outcome.hidden.View()));
  outcome.gradients = TestTensor(DType::kFloat32, {whole.layout.total_size()});
  for (const ParameterSpec& spec : layout.specs()) {
    if (spec.holder != 0) continue;
    const int64_t offset = whole.layout.Find(spec.name)->offset;
    for (int64_t i = 0; i < spec.size(); ++i) {
      outcome.gradients.Set(offset + spec.WholeIndex(i), part.gradients.At(spec.offset + i));
    }
  }
  CheckOk(World().AllReduceSum(outcome.gradients.View()));
  return outcome;
}

using ObjectiveOn = std::function<std::unique_ptr<Objective>(const PlacedModel& model,
                                                             const ParallelContext* parallel)>;

// The ranks' model by the exact one's spread; twice the same bits, and the same loss on all ranks.
void ExpectMatchesExactModel(const ModelWeights& weights, const ObjectiveOn& exact_objective,
                             Part& part, const ObjectiveOn& objective) {
  const PackedStream stream = RandomStream(kDocuments, weights.config.vocabulary, 5);
  const auto on_one_rank = [&](const PlacedModel& model) {
    return exact_objective(model, nullptr);
  };
  const TestContext cpu;
  const PlacedModel exact_model(weights, OnCpu(cpu));
  const Outcome exact = RunModel(exact_model, *on_one_rank(exact_model), stream);
  const Spread spread = SpreadOf(weights, on_one_rank, stream, exact);
  const auto of_part = objective(part.model, &part.parallel);
  const Outcome first = RunModel(part.model, *of_part, stream, nullptr, &part.parallel);
  ExpectWithinSpread(Assembled(first, part.weights.layout, weights), exact, spread, weights.layout);
  const Outcome second = RunModel(part.model, *of_part, stream, nullptr, &part.parallel);
  EXPECT_TRUE(BitwiseEqual(second.hidden.View(), first.hidden.View()));
  EXPECT_TRUE(BitwiseEqual(second.gradients.View(), first.gradients.View()));
  double losses[] = {first.loss};
  CheckOk(World().AllReduceSum(absl::Span<double>(losses)));
  EXPECT_EQ(losses[0], World().size() * first.loss);
}

std::unique_ptr<Objective> NextToken(const PlacedModel& model, const ParallelContext* parallel) {
  return LanguageModelObjective(model.transformer(), {}, parallel);
}

class TensorParallelGpuTest : public testing::TestWithParam<ModelCase> {};

INSTANTIATE_TEST_SUITE_P(Models, TensorParallelGpuTest, testing::ValuesIn(ModelCases()),
                         [](const auto& given) { return given.param.name; });

TEST_P(TensorParallelGpuTest, PartsMatchTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const ModelWeights weights = ExactWeights(GetParam().config, 15);
  Part part(weights);
  ExpectMatchesExactModel(weights, NextToken, part, NextToken);
}

TEST_P(TensorParallelGpuTest, WhatIsComputedAgainHasTheSameBits) {
  SKIP_WITHOUT_GPU();
  const ModelConfig& config = GetParam().config;
  const ModelWeights weights = ExactWeights(config, 12);
  Part part(weights);
  const PackedStream stream = RandomStream(kDocuments, config.vocabulary, 5);
  const auto run = [&](Recomputation recomputation) {
    const auto objective = LanguageModelObjective(
        part.model.transformer(), std::vector<Recomputation>(config.layers.size(), recomputation),
        &part.parallel);
    return RunModel(part.model, *objective, stream, nullptr, &part.parallel);
  };
  const Outcome kept = run(Recomputation::kNone);
  for (const Recomputation recomputation : {Recomputation::kAttention, Recomputation::kFull}) {
    const Outcome again = run(recomputation);
    EXPECT_EQ(again.loss, kept.loss);
    EXPECT_TRUE(BitwiseEqual(again.gradients.View(), kept.gradients.View()));
  }
}

TEST(TensorParallelObjectiveGpuTest, DistillationMatchesTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const ModelWeights weights = ExactWeights(SmallHybridConfig(3, {1}, 32), 21);
  const ModelWeights teacher_weights = ExactWeights(SmallDenseConfig(2, 32), 22);
  const TestContext cpu;
  const PlacedModel exact_teacher(teacher_weights, OnCpu(cpu));
  Part part(weights);
  const PlacedModel teacher(PartOfWeights(teacher_weights, Shard()), On(part.gpu));
  const auto taught_by = [](const PlacedModel& by) {
    return [&by](const PlacedModel& model, const ParallelContext* parallel) {
      return DistillationObjective(model.transformer(), by.transformer(), {}, parallel);
    };
  };
  ExpectMatchesExactModel(weights, taught_by(exact_teacher), part, taught_by(teacher));
}

TEST(TensorParallelObjectiveGpuTest, AlignmentMatchesTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const ModelWeights weights = ExactWeights(*CandidateConfig(SmallDenseConfig(2, 64)), 23);
  Part part(weights);
  const auto align = [](const PlacedModel& model, const ParallelContext* parallel) {
    return AlignmentObjective(model.transformer(), parallel);
  };
  ExpectMatchesExactModel(weights, align, part, align);
}

}  // namespace
}  // namespace salamander
