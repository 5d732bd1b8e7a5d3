// A model on slices of a stream, with ranks that share a GPU or have one each, against the same
// model in fp64 on the CPU, which holds the whole stream.
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "data/sequences/context_slice.h"
#include "kernels/head_loss.h"
#include "kernels/memory.h"
#include "model/parallel/parallel_context.h"
#include "tests/distributed/world.h"
#include "tests/gpu/model_on_gpu.h"

namespace salamander {
namespace {

constexpr int64_t kTensorBytes = int64_t{64} << 20;
constexpr int64_t kScratchBytes = int64_t{256} << 20;

// 288 tokens with padding, which 2, 3 and 4 divide: documents across edges, of one token, from an
// edge on.
const std::vector<int64_t> kDocuments = {1, 70, 25, 48, 129, 10};

template <typename Value>
Value OrDie(absl::StatusOr<Value> value) {
  SALAMANDER_CHECK(value.ok()) << value.status().ToString();
  return *std::move(value);
}

void CheckOk(const absl::Status& status) {
  SALAMANDER_CHECK(status.ok()) << status.ToString();
}

class ContextParallelGpuTest : public testing::TestWithParam<ModelCase> {
 protected:
  const ModelConfig& config() const { return GetParam().config; }

  // Every rank's rows and the sums of what they give, on every rank. `objective` counts the rows.
  Outcome RunOnRanks(GpuContext& gpu, const PlacedModel& model, const PackedStream& stream,
                     double row_weights) {
    const ExecutionContext& execution = gpu;
    const ParallelContext parallel =
        OrDie(ParallelContext::Create(World(), {.context = World().size()}, execution));
    const PackedStream slice = SliceOf(stream, World().rank(), World().size());
    const ArenaScope scope(*execution.arena);
    ForwardPass pass = OrDie(PassOver(execution, slice));
    pass.parallel = &parallel;
    Activations saved;
    const TensorView hidden = OrDie(model.transformer().Forward(pass, &saved));
    Outcome outcome;
    outcome.hidden = Gathered(gpu.Download(hidden));
    const ParameterBuffer gradients =
        OrDie(ParameterBuffer::Create(model.layout(), DType::kFloat32, gpu.session()));
    const ModelTensors views = BindTensors(model.config(), model.layout(), gradients);
    const TensorView d_hidden =
        execution.arena->Tensor(DType::kBFloat16, {slice.size(), config().width});
    const TensorView loss_sum = execution.arena->Tensor(DType::kFloat64, {1});
    CheckOk(Zero(execution, loss_sum));
    CheckOk(HeadCrossEntropy(
        execution,
        {.hidden = hidden,
         .head = model.transformer().weights().head,
         .logit_scale = config().logit_scale,
         .targets = OrDie(FromHost<int32_t>(execution, slice.targets)),
         .loss_weights = OrDie(FromHost<float>(execution, slice.loss_weights)),
         .gradients = {.scale = 1.0 / row_weights, .d_hidden = d_hidden, .d_head = views.head},
         .token_losses = {},
         .predictions = {},
         .loss_sum = loss_sum}));
    CheckOk(model.transformer().Backward(pass, saved, d_hidden, views));
    outcome.gradients = gpu.Download(gradients.Flat());
    CheckOk(World().AllReduceSum(outcome.gradients.View()));
    double loss[] = {gpu.Download(loss_sum).At(0)};
    CheckOk(World().AllReduceSum(absl::Span<double>(loss)));
    outcome.loss = loss[0] / row_weights;
    return outcome;
  }

  static TestTensor Gathered(const TestTensor& mine) {
    const TensorView view = mine.View();
    const TestTensor all(view.dtype(), {view.dim(0) * World().size(), view.dim(1)});
    CheckOk(World().AllGather(view, all.View()));
    return all;
  }
};

TEST_P(ContextParallelGpuTest, SlicesMatchTheExactModelWithinItsSpread) {
  SKIP_WITHOUT_GPU();
  const PackedStream stream = RandomStream(kDocuments, config().vocabulary, 5);
  ASSERT_EQ(stream.size(), 288);
  const ModelWeights weights = ExactWeights(config(), 11);
  const TestContext cpu;
  const PlacedModel exact_model(weights, OnCpu(cpu));
  const auto objective = NextTokenObjective(exact_model);
  const Outcome exact = RunModel(exact_model, *objective, stream);
  const Spread spread = SpreadOf(weights, NextTokenObjective, stream, exact);
  double row_weights = 0.0;
  for (const float weight : objective->RowWeights(stream))
    row_weights += static_cast<double>(weight);
  GpuContext gpu(kTensorBytes, kScratchBytes, kDeterministic);
  const PlacedModel model(weights, On(gpu));
  const Outcome first = RunOnRanks(gpu, model, stream, row_weights);
  ExpectWithinSpread(first, exact, spread, weights.layout);
  const Outcome second = RunOnRanks(gpu, model, stream, row_weights);
  EXPECT_TRUE(BitwiseEqual(second.hidden.View(), first.hidden.View()));
  EXPECT_TRUE(BitwiseEqual(second.gradients.View(), first.gradients.View()));
}

INSTANTIATE_TEST_SUITE_P(Models, ContextParallelGpuTest, testing::ValuesIn(ModelCases()),
                         [](const auto& given) { return given.param.name; });

}  // namespace
}  // namespace salamander
