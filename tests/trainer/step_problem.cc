#include "tests/trainer/step_problem.h"

#include <utility>
#include <vector>

#include "kernels/memory.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

constexpr int64_t kLength = 32;
constexpr int32_t kPaddingToken = 0;

// So few that a step takes several, the last one smaller.
constexpr int64_t kBucketElements = 1000;

ParameterBuffer TinyWeights(const ParameterLayout& layout) {
  const TinyModel model(TinyHybridConfig(3, {1}), DType::kFloat32, 31);
  ParameterBuffer weights = *ParameterBuffer::Create(layout, DType::kFloat32);
  for (const ParameterSpec& spec : layout.specs()) {
    const TensorView from = model.weights.View(spec.name);
    SALAMANDER_CHECK(Copy({}, from, weights.View(spec)).ok()) << spec.name;
  }
  return weights;
}

}  // namespace

StepProblem::StepProblem(Communicator* world, const MeshShape& shape)
    : alone_(SingleRankCommunicator()),
      parallel_(*ParallelContext::Create(world == nullptr ? *alone_ : *world, shape, context_)),
      layout_(TinyHybridConfig(3, {1}), {}, parallel_.replicas().size()),
      weights_(TinyWeights(layout_)),
      model_(TinyHybridConfig(3, {1}), BindTensors(TinyHybridConfig(3, {1}), layout_, weights_)),
      gradients_(*ParameterBuffer::Create(layout_, DType::kFloat32)),
      gradient_views_(BindTensors(model_.config(), layout_, gradients_)),
      optimizer_(*Optimizer::Create(layout_,
                                    ShardLayout(layout_, parallel_.replicas().rank(),
                                                parallel_.replicas().size(), kBucketElements),
                                    CpuSession())),
      objective_(LanguageModelObjective(model_, {}, &parallel_)) {
  optimizer_.Configure({}, [](const ParameterSpec&) { return ParameterPolicy{}; });
}

PackedStream StepProblem::Sequence(int64_t n) {
  SplitMix random(static_cast<uint64_t>(n) + 100);
  PackedStream stream;
  const int64_t first = random.Integer(3, 15);
  const int64_t second = random.Integer(3, 15);
  for (const int64_t length : {first, second}) {
    std::vector<int32_t> tokens;
    std::vector<float> weights;
    // Counts up from a random token: something to learn.
    const int64_t start = random.Integer(1, 23);
    for (int64_t index = 0; index < length; ++index) {
      tokens.push_back(static_cast<int32_t>(1 + (start + index) % 23));
      weights.push_back(random.Integer(0, 3) == 0 ? 0.0F : 1.0F);
    }
    weights[0] = 1.0F;
    AppendPiece(tokens, -1, weights, &stream);
  }
  AppendPadding(kLength - stream.size(), kPaddingToken, &stream);
  return stream;
}

absl::StatusOr<StepResult> StepProblem::Step(int64_t first_sequence, const BatchShape& batch,
                                             const StepOverride& instead) {
  const StepResources resources{
      .execution = context_,
      .parallel = instead.parallel == nullptr ? parallel_ : *instead.parallel,
      .weights = weights_,
      .gradients = gradients_,
      .gradient_views = gradient_views_,
      .optimizer = optimizer_,
      .micro_batch = *micro_batch_};
  const SequenceAt sequence_at = instead.sequence_at ? instead.sequence_at : &StepProblem::Sequence;
  return RunTrainStep(resources, instead.objective == nullptr ? *objective_ : *instead.objective,
                      sequence_at, first_sequence, batch, 1e-2);
}

}  // namespace salamander
