#include "trainer/config/recipe.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr int64_t kLargestFile = int64_t{4} << 20;
constexpr NumberRange kNotNegative = {0.0};

constexpr absl::string_view kSourceKinds[] = {"tokens", "associative_recall", "needle"};
constexpr absl::string_view kObjectives[] = {"align", "distill", "lm"};
constexpr absl::string_view kShapes[] = {"constant", "cosine", "exponential", "linear"};
constexpr absl::string_view kTrainableSets[] = {"all", "mixers", "linear_layers", "candidates",
                                                "matching"};
constexpr absl::string_view kStageKinds[] = {"train", "convert", "select"};
constexpr absl::string_view kGates[] = {"random", "open"};
constexpr absl::string_view kRecomputations[] = {"none", "attention", "full"};
constexpr absl::string_view kOptimizerStates[] = {"keep", "reset"};
constexpr absl::string_view kDenseRules[] = {"per_document", "per_query"};

void VisitSource(FieldVisitor& v, SourceConfig& source) {
  v.Choice("kind", source.kind, kSourceKinds);
  v.Text("path", source.path, Need::kRequired);
  v.Integer("lanes", source.lanes, Unit::kCount, 1, Need::kOptional);
  v.Number("held_out", source.held_out, {0.0, 0.5}, Need::kOptional);
  v.Integer("sample_length", source.sample_length, Unit::kLength, 0, Need::kOptional);
  v.Integer("pairs", source.pairs, Unit::kCount, 1, Need::kOptional);
}

void VisitGroup(FieldVisitor& v, ParameterGroup& group) {
  v.Text("match", group.match, Need::kRequired);
  v.Number("learning_rate_multiplier", group.learning_rate_multiplier, kNotNegative,
           Need::kOptional);
  v.Number("weight_decay", group.weight_decay, {-1.0, 10.0}, Need::kOptional);
}

void VisitOptimizer(FieldVisitor& v, OptimizerConfig& optimizer) {
  v.Number("beta1", optimizer.beta1, {0.0, 0.9999999}, Need::kOptional);
  v.Number("beta2", optimizer.beta2, {0.0, 0.9999999}, Need::kOptional);
  v.Number("epsilon", optimizer.epsilon, {1e-30, 1.0}, Need::kOptional);
  v.Number("weight_decay", optimizer.weight_decay, {0.0, 10.0}, Need::kOptional);
  v.Number("clip_norm", optimizer.clip_norm, kNotNegative, Need::kOptional);
  v.List("groups", optimizer.groups, VisitGroup);
}

void VisitSchedule(FieldVisitor& v, ScheduleConfig& schedule) {
  v.Choice("shape", schedule.shape, kShapes);
  v.Number("final_lr", schedule.final, {-1.0, 10.0}, Need::kOptional);
  v.Integer("warmup_steps", schedule.warmup_steps, Unit::kCount, 0, Need::kOptional);
  v.Integer("warmup_tokens", schedule.warmup_tokens, Unit::kBudget, 0, Need::kOptional);
}

void VisitConvert(FieldVisitor& v, ConvertStageConfig& convert) {
  v.Text("keep", convert.keep, Need::kOptional);
  v.Choice("gate", convert.gate, kGates);
  v.Flag("rope_in_kept_layers", convert.rope_in_kept_layers);
  v.Section("sparse", [&](FieldVisitor& nested) { VisitSparse(nested, convert.sparse); });
}

void VisitTrainStage(FieldVisitor& v, StageConfig& stage) {
  v.Choice("objective", stage.objective, kObjectives, Need::kRequired);
  v.Choice("train", stage.train, kTrainableSets);
  v.Texts("train_matching", stage.train_matching);
  v.Integer("sequence_length", stage.sequence_length, Unit::kLength, 2, Need::kRequired);
  v.Integer("tokens", stage.tokens, Unit::kBudget, 1, Need::kRequired);
  v.Integer("batch_tokens", stage.batch_tokens, Unit::kLength, 2, Need::kRequired);
  v.Integer("micro_batch_tokens", stage.micro_batch_tokens, Unit::kLength, 0, Need::kOptional);
  v.Number("peak_lr", stage.learning_rate.peak, {1e-12, 10.0}, Need::kRequired);
  v.Section("schedule", [&](FieldVisitor& nested) { VisitSchedule(nested, stage.learning_rate); });
  v.Weights("mixture", stage.mixture);
  v.Flag("keep_documents_whole", stage.keep_documents_whole);
  v.Flag("sparse", stage.sparse);
  v.Choice("dense_rule", stage.dense_rule, kDenseRules);
  v.Integer("dense_length", stage.dense_length, Unit::kLength, -1, Need::kOptional);
  v.Flag("rope_in_kept_layers", stage.rope_in_kept_layers);
  v.Choice("optimizer_state", stage.optimizer_state, kOptimizerStates);
  v.Choice("recomputation", stage.recomputation, kRecomputations);
  v.Integers("recomputed_layers", stage.recomputed_layers, Unit::kCount);
  v.Integer("context_parallel", stage.context_parallel, Unit::kCount, 1, Need::kOptional);
  v.Integer("tensor_parallel", stage.tensor_parallel, Unit::kCount, 1, Need::kOptional);
}

void VisitStage(FieldVisitor& v, StageConfig& stage) {
  v.Text("name", stage.name, Need::kRequired);
  v.Choice("kind", stage.kind, kStageKinds);
  switch (stage.kind) {
    case StageKind::kTrain:
      VisitTrainStage(v, stage);
      break;
    case StageKind::kConvert:
      v.Section("convert", [&](FieldVisitor& nested) { VisitConvert(nested, stage.convert); });
      break;
    case StageKind::kSelect:
      v.Section("select", [&](FieldVisitor& nested) { VisitSelection(nested, stage.select); });
      break;
  }
}

void VisitEvaluation(FieldVisitor& v, EvaluationConfig& evaluation) {
  v.Integer("every_steps", evaluation.every_steps, Unit::kCount, 0, Need::kOptional);
  v.Text("source", evaluation.source, Need::kOptional);
  v.Integer("sequence_length", evaluation.sequence_length, Unit::kLength, 0, Need::kOptional);
  v.Integer("sequences", evaluation.sequences, Unit::kCount, 0, Need::kOptional);
  v.Integers("recall_lengths", evaluation.recall_lengths, Unit::kLength);
  v.Integer("recall_samples", evaluation.recall_samples, Unit::kCount, 1, Need::kOptional);
}

void VisitCheckpoint(FieldVisitor& v, CheckpointConfig& checkpoint) {
  v.Integer("every_steps", checkpoint.every_steps, Unit::kCount, 0, Need::kOptional);
  v.Duration("every", checkpoint.every_seconds);
  v.Integer("keep_last", checkpoint.keep_last, Unit::kCount, 1, Need::kOptional);
  v.Integer("keep_every", checkpoint.keep_every, Unit::kCount, 0, Need::kOptional);
  v.Flag("background", checkpoint.background);
}

// A stage begins as the run's own keys say.
void VisitStages(FieldVisitor& v, Recipe& recipe) {
  v.Sections("stages", recipe.stages.size(), [&recipe](size_t index) {
    while (index >= recipe.stages.size()) {
      StageConfig& stage = recipe.stages.emplace_back();
      stage.context_parallel = recipe.context_parallel;
      stage.tensor_parallel = recipe.tensor_parallel;
    }
    return [&recipe, index](FieldVisitor& stage) { VisitStage(stage, recipe.stages[index]); };
  });
}

}  // namespace

void VisitRecipe(FieldVisitor& v, Recipe& recipe) {
  v.Text("name", recipe.name, Need::kRequired);
  v.Text("run_directory", recipe.run_directory, Need::kRequired);
  v.Integer("seed", recipe.seed, Unit::kCount, 0, Need::kOptional);
  v.Choice("device", recipe.device, kDeviceChoices);
  v.Flag("deterministic", recipe.deterministic);
  v.Section("model", [&](FieldVisitor& nested) {
    nested.Text("from", recipe.model.from, Need::kOptional);
    nested.Text("shape", recipe.model.shape, Need::kOptional);
  });
  v.Text("teacher", recipe.teacher, Need::kOptional);
  v.Map("data", recipe.data, VisitSource);
  v.Section("optimizer", [&](FieldVisitor& nested) { VisitOptimizer(nested, recipe.optimizer); });
  v.Integer("context_parallel", recipe.context_parallel, Unit::kCount, 1, Need::kOptional);
  v.Integer("tensor_parallel", recipe.tensor_parallel, Unit::kCount, 1, Need::kOptional);
  VisitStages(v, recipe);
  v.Section("evaluation",
            [&](FieldVisitor& nested) { VisitEvaluation(nested, recipe.evaluation); });
  v.Section("checkpoint",
            [&](FieldVisitor& nested) { VisitCheckpoint(nested, recipe.checkpoint); });
  v.Integer("log_every_steps", recipe.log_every_steps, Unit::kCount, 1, Need::kOptional);
}

absl::StatusOr<Recipe> ParseRecipe(absl::string_view text, const std::string& file,
                                   const std::vector<std::string>& overrides) {
  ASSIGN_OR_RETURN(ConfigNode root, ParseConfig(text, file));
  for (const std::string& assignment : overrides) RETURN_IF_ERROR(ApplyOverride(assignment, root));
  Recipe recipe;
  RETURN_IF_ERROR(ReadFields(root, [&](FieldVisitor& visitor) { VisitRecipe(visitor, recipe); }));
  recipe.places = ConfigPlaces(root);
  return recipe;
}

absl::StatusOr<Recipe> ReadRecipe(const std::string& path,
                                  const std::vector<std::string>& overrides) {
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path, kLargestFile));
  return ParseRecipe(text, path, overrides);
}

std::string RecipeText(const Recipe& recipe) {
  Recipe copy = recipe;  // visitors take fields they may fill
  return WriteFields([&](FieldVisitor& visitor) { VisitRecipe(visitor, copy); });
}

std::vector<std::pair<std::string, std::string>> FlattenRecipe(const Recipe& recipe) {
  Recipe copy = recipe;
  return FlattenFields([&](FieldVisitor& visitor) { VisitRecipe(visitor, copy); });
}

bool MatchesPattern(absl::string_view name, absl::string_view pattern) {
  const size_t star = pattern.find('*');
  if (star == absl::string_view::npos) return name == pattern;
  const absl::string_view head = pattern.substr(0, star);
  if (name.substr(0, head.size()) != head) return false;
  for (size_t skip = head.size(); skip <= name.size(); ++skip) {
    if (MatchesPattern(name.substr(skip), pattern.substr(star + 1))) return true;
  }
  return false;
}

}  // namespace salamander
