#include "trainer/run/stage_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

bool IsTrained(const StageConfig& stage, const ParameterSpec& spec) {
  const bool is_mixer =
      spec.role == ParameterRole::kSoftmaxMixer || spec.role == ParameterRole::kLightningMixer;
  switch (stage.train) {
    case TrainableSet::kAll:
      return spec.role != ParameterRole::kCandidate;
    case TrainableSet::kMixers:
      return is_mixer;
    case TrainableSet::kLightning:
      return spec.role == ParameterRole::kLightningMixer;
    case TrainableSet::kCandidates:
      return spec.role == ParameterRole::kCandidate;
    case TrainableSet::kMatching:
      return std::any_of(
          stage.train_matching.begin(), stage.train_matching.end(),
          [&](const std::string& pattern) { return MatchesPattern(spec.name, pattern); });
  }
  return false;
}

}  // namespace

absl::StatusOr<ModelConfig> StageModelConfig(const ModelConfig& base, const StageConfig& stage) {
  ModelConfig config = base;
  const bool is_hybrid = base.family == ModelFamily::kMiniCpmSala;
  if (stage.sparse && !is_hybrid) {
    return absl::FailedPreconditionError(
        absl::StrCat("stage ", stage.name,
                     ": sparse attention is for the kept layers of a hybrid; the model is ",
                     Name(base.family), ", convert it first"));
  }
  if (stage.objective == ObjectiveKind::kAlign &&
      std::none_of(base.layers.begin(), base.layers.end(),
                   [](const LayerConfig& layer) { return layer.has_candidate; })) {
    return absl::FailedPreconditionError(
        absl::StrCat("stage ", stage.name,
                     ": align trains Lightning candidates and the model has none; run "
                     "convert --all first"));
  }
  for (const int64_t layer : stage.recomputed_layers) {
    if (layer >= 0 && layer < base.layer_count()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("stage ", stage.name, ": recomputed_layers: ", layer,
                     "; the model has layers 0 to ", base.layer_count() - 1));
  }
  config.softmax.use_sparse = stage.sparse;
  config.softmax.sparse.dense_rule = stage.dense_rule;
  if (stage.dense_length >= 0) config.softmax.sparse.dense_length = stage.dense_length;
  if (is_hybrid) config.softmax.use_rope = base.softmax.use_rope && stage.rope_in_kept_layers;
  RETURN_IF_ERROR(Annotate(config.Validate(), absl::StrCat("stage ", stage.name)));
  return config;
}

absl::StatusOr<MeshShape> MeshOf(const StageConfig& stage, int ranks) {
  return FitMesh(ranks, static_cast<int>(stage.context_parallel),
                 static_cast<int>(stage.tensor_parallel));
}

ParameterPolicy PolicyFor(const StageConfig& stage, const OptimizerConfig& optimizer,
                          const ParameterSpec& spec) {
  const bool decays = spec.kind == ParameterKind::kMatrix || spec.kind == ParameterKind::kHead;
  ParameterPolicy policy{.is_trainable = IsTrained(stage, spec),
                         .weight_decay = decays ? optimizer.weight_decay : 0.0};
  for (const ParameterGroup& group : optimizer.groups) {
    if (!MatchesPattern(spec.name, group.match)) continue;
    policy.learning_rate_multiplier = group.learning_rate_multiplier;
    if (group.weight_decay >= 0) policy.weight_decay = group.weight_decay;
    break;
  }
  return policy;
}

std::vector<Recomputation> RecomputationOf(const StageConfig& stage, const ModelConfig& config) {
  if (stage.recomputation == Recomputation::kNone) return {};
  if (stage.recomputed_layers.empty())
    return std::vector<Recomputation>(config.layers.size(), stage.recomputation);
  std::vector<Recomputation> layers(config.layers.size(), Recomputation::kNone);
  for (const int64_t layer : stage.recomputed_layers)
    layers[static_cast<size_t>(layer)] = stage.recomputation;
  return layers;
}

std::unique_ptr<Objective> ObjectiveFor(const StageConfig& stage, const Transformer& model,
                                        const Transformer* teacher,
                                        const ParallelContext* parallel) {
  switch (stage.objective) {
    case ObjectiveKind::kAlign:
      return AlignmentObjective(model, parallel);
    case ObjectiveKind::kDistill:
      SALAMANDER_CHECK(teacher != nullptr) << "distillation without a teacher";
      return DistillationObjective(model, *teacher, RecomputationOf(stage, model.config()),
                                   parallel);
    case ObjectiveKind::kLm:
      return LanguageModelObjective(model, RecomputationOf(stage, model.config()), parallel);
  }
  return nullptr;
}

}  // namespace salamander
