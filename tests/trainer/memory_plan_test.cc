#include "trainer/run/memory_plan.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/parallel/parallel_context.h"
#include "model/shard_layout.h"
#include "tests/model/tiny_model.h"
#include "tests/support/test_context.h"
#include "tests/trainer/planning_device.h"
#include "trainer/run/plan.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kGibibyte = int64_t{1} << 30;

MemoryPlan PlanOf(int64_t parameters_in_gibi) {
  const MemoryPlan::Stage brief{.name = "short",
                                .masters = 4 * parameters_in_gibi * kGibibyte,
                                .moments = 8 * parameters_in_gibi * kGibibyte,
                                .gradients = 4 * parameters_in_gibi * kGibibyte,
                                .weights = 2 * parameters_in_gibi * kGibibyte,
                                .activations = 3 * kGibibyte,
                                .training = 4 * kGibibyte,
                                .evaluation = 5 * kGibibyte};
  MemoryPlan::Stage extended = brief;
  extended.name = "long";
  extended.activations = 20 * kGibibyte;
  extended.training = 22 * kGibibyte;
  extended.evaluation = 1 * kGibibyte;
  return {.stages = {brief, extended}};
}

TEST(MemoryPlanTest, TotalHoldsTheLargestStage) {
  EXPECT_EQ(PlanOf(1).Of("long").held(), 18 * kGibibyte);
  EXPECT_EQ(PlanOf(1).total(), 40 * kGibibyte);
  EXPECT_TRUE(CheckFits(PlanOf(1), 40 * kGibibyte, "a GPU").ok());
}

TEST(MemoryPlanTest, ActivationsThatDoNotFitAreNamedWithTheirStage) {
  const absl::Status status = CheckFits(PlanOf(1), 40 * kGibibyte - 1, "a GPU");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("stage long needs 40.00 GiB"), HasSubstr("activations 20.00 GiB"),
                    HasSubstr("scratch 2.00 GiB"), HasSubstr("a GPU has 40.00 GiB"),
                    HasSubstr("recomputation: full")));
}

TEST(MemoryPlanTest, AnEvaluationThatDoesNotFitIsToldAsSuch) {
  MemoryPlan plan = PlanOf(1);
  plan.stages[0].evaluation = 60 * kGibibyte;
  const absl::Status status = CheckFits(plan, 70 * kGibibyte, "a GPU");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("stage short needs 78.00 GiB"), HasSubstr("evaluation 60.00 GiB"),
                    HasSubstr("lower evaluation.sequence_length")));
}

TEST(MemoryPlanTest, AModelThatDoesNotFitIsToldByItsState) {
  const absl::Status status = CheckFits(PlanOf(5), 80 * kGibibyte, "a GPU");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("the model's state needs 90.00 GiB"), HasSubstr("moments 40.00 GiB"),
                    HasSubstr("smaller model")));
}

// A stage that splits the model never meets the memory of one that does not.
TEST(MemoryPlanTest, WhatIsHeldCountsInItsOwnStage) {
  MemoryPlan plan = PlanOf(1);
  plan.stages[1].gradients = plan.stages[1].weights = 0;
  EXPECT_EQ(plan.total(), 34 * kGibibyte);
  plan.stages[1].training = plan.stages[1].activations = 0;
  EXPECT_EQ(plan.total(), 23 * kGibibyte);
}

// Plans of one stage on four ranks, for a hybrid whose heads four ranks can share.
class SplitPlanTest : public testing::Test {
 protected:
  static ModelConfig Config() {
    ModelConfig config = TinyHybridConfig(4, {1, 3});
    config.width = 64;
    config.intermediate = 192;
    config.vocabulary = 512;
    config.softmax.heads = config.softmax.kv_heads = 4;
    config.lightning.heads = config.lightning.kv_heads = 4;
    return config;
  }

  static Recipe RecipeFor(const MeshShape& shape) {
    Recipe recipe;
    recipe.evaluation.sequences = 1;
    StageConfig stage;
    stage.name = "lm";
    stage.sequence_length = 512;
    stage.batch_tokens = stage.tokens = 4 * 512;
    stage.context_parallel = shape.context;
    stage.tensor_parallel = shape.tensor;
    recipe.stages = {stage};
    return recipe;
  }

  MemoryPlan::Stage PlanFor(const MeshShape& shape) {
    const auto plan = PlanMemory(RecipeFor(shape), models_, 0, 4, device_);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan->Of("lm");
  }

  ScopedThreadCount threads_{1};  // the work is too small to share
  PlanningDevice device_;
  RunModels models_{.base = Config(), .teacher = Config()};
};

// But for the norms' weights, which every rank has.
TEST_F(SplitPlanTest, TensorRanksHoldTheirShareOfTheModel) {
  const MemoryPlan::Stage whole = PlanFor({.data = 4});
  for (const int ranks : {2, 4}) {
    const MemoryPlan::Stage part = PlanFor({.data = 4 / ranks, .tensor = ranks});
    for (const auto member : {&MemoryPlan::Stage::masters, &MemoryPlan::Stage::gradients,
                              &MemoryPlan::Stage::teacher}) {
      EXPECT_LT(part.*member, 1.05 * static_cast<double>(whole.*member) / ranks);
      EXPECT_GE(part.*member, whole.*member / ranks);
    }
    // However they are laid out, the ranks share them all out.
    EXPECT_LT(part.moments, 1.05 * static_cast<double>(whole.moments));
    // A layer's input and the projections are split; the rows that a mixer or MLP gathers are not.
    EXPECT_LT(part.activations, 1.2 * static_cast<double>(whole.activations) / ranks);
    EXPECT_LT(part.training, whole.training * 3 / 4);
    EXPECT_LT(part.evaluation, whole.evaluation * 3 / 4);
  }
}

TEST_F(SplitPlanTest, ContextRanksKeepASliceAndHoldTheWholeModel) {
  const MemoryPlan::Stage whole = PlanFor({.data = 4});
  const MemoryPlan::Stage slice = PlanFor({.context = 4});
  EXPECT_EQ(slice.held(), whole.held());
  EXPECT_LT(slice.activations, whole.activations / 2);
  EXPECT_LT(slice.training, whole.training / 2);
  EXPECT_LT(slice.evaluation, whole.evaluation / 2);
}

TEST_F(SplitPlanTest, MomentsAreOfTheOptimizersShard) {
  for (const MeshShape& shape :
       {MeshShape{.data = 4}, MeshShape{.tensor = 4}, MeshShape{.data = 2, .context = 2},
        MeshShape{.context = 4}, MeshShape{.context = 2, .tensor = 2}}) {
    const int replicas = shape.data * shape.context;
    const ParameterLayout layout(Config(), {0, shape.tensor}, replicas);
    const ShardLayout shard(layout, replicas - 1, replicas);
    EXPECT_EQ(PlanFor(shape).moments, 2 * 4 * shard.size());
  }
}

TEST_F(SplitPlanTest, EveryObjectiveIsPlannedOnEveryMesh) {
  for (const ObjectiveKind objective :
       {ObjectiveKind::kLm, ObjectiveKind::kDistill, ObjectiveKind::kAlign}) {
    if (objective == ObjectiveKind::kAlign) {
      for (LayerConfig& layer : models_.base.layers)
        layer.has_candidate = layer.mixer == MixerKind::kSoftmax;
    }
    for (const MeshShape& shape :
         {MeshShape{.tensor = 4}, MeshShape{.context = 4}, MeshShape{.context = 2, .tensor = 2}}) {
      Recipe recipe = RecipeFor(shape);
      recipe.evaluation.recall_lengths = {64};
      recipe.stages[0].objective = objective;
      recipe.stages[0].sparse = true;
      recipe.stages[0].dense_length = 200;  // ends within a slice
      const auto plan = PlanMemory(recipe, models_, 0, 4, device_);
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_GT(plan->Of("lm").training, 0);
      EXPECT_GT(plan->Of("lm").evaluation, 0);
    }
  }
}

TEST_F(SplitPlanTest, ThePlanIsOfTheStagesMesh) {
  const auto text = PlanText(RecipeFor({.context = 2, .tensor = 2}), models_, 4, device_);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, AllOf(HasSubstr("data x context x tensor"), HasSubstr("1 x 2 x 2")));
}

// Nobody is there to answer.
TEST(PlannedPlaceDeathTest, ItsCollectivesCountAndTouchNothing) {
  const ParallelContext parallel = ParallelContext::Planned({.data = 2, .context = 4, .tensor = 8},
                                                            {.context = 3, .tensor = 5}, {2});
  EXPECT_EQ(parallel.world().rank(), 29);
  EXPECT_EQ(parallel.world().size(), 64);
  EXPECT_EQ(parallel.context().rank(), 3);
  EXPECT_EQ(parallel.tensor().rank(), 5);
  EXPECT_EQ(parallel.replicas().rank(), 3);
  EXPECT_EQ(parallel.replicas().size(), 8);
  EXPECT_EQ(parallel.holders(2).rank(), 1);
  EXPECT_EQ(&parallel.holders(8), &parallel.tensor());

  Arena nowhere = Arena::Planned();
  const TensorView mine = nowhere.Tensor(DType::kFloat32, {3, 2});
  const TensorView all = nowhere.Tensor(DType::kFloat32, {24, 2});
  Communicator& tensor = parallel.tensor();
  EXPECT_TRUE(tensor.AllReduceSum(mine).ok());
  EXPECT_TRUE(tensor.AllGather(mine, all).ok());
  EXPECT_TRUE(tensor.ReduceScatterSum(all, mine).ok());
  EXPECT_EQ(tensor.traffic()[static_cast<size_t>(Collective::kAllGather)],
            (CollectiveTraffic{.calls = 1, .payload_bytes = all.bytes()}));
  EXPECT_THAT(*tensor.AllGather("here"), testing::SizeIs(8));
  EXPECT_TRUE(AgreeOnStatus(parallel.world(), absl::OkStatus()).ok());
  EXPECT_FALSE(parallel.world().Split(0, "part").ok());
  EXPECT_DEATH(tensor.AllGather(mine, all.Rows(0, 23)).IgnoreError(), "tensor of 8");
}

}  // namespace
}  // namespace salamander
