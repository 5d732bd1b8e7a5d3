#include "trainer/config/recipe.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr int64_t kLargestFile = int64_t{4} << 20;
constexpr NumberRange kShare = {0.0, 1.0};
constexpr NumberRange kNotNegative = {0.0};

constexpr absl::string_view kSourceKinds[] = {"tokens", "associative_recall", "needle"};
constexpr absl::string_view kObjectives[] = {"align", "distill", "lm"};
constexpr absl::string_view kShapes[] = {"constant", "cosine", "exponential", "linear"};
constexpr absl::string_view kTrainableSets[] = {"all", "mixers", "lightning", "candidates",
                                                "matching"};
constexpr absl::string_view kOptimizerStates[] = {"keep", "reset"};
constexpr absl::string_view kDenseRules[] = {"per_document", "per_query"};

void VisitSource(FieldVisitor& v, SourceConfig& source) {
  v.Choice("kind", source.kind, kSourceKinds);
  v.Text("path", source.path, Need::kRequired);
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

void VisitLearningRate(FieldVisitor& v, ScheduleConfig& schedule) {
  v.Number("peak", schedule.peak, {1e-12, 10.0}, Need::kRequired);
  v.Number("final", schedule.final, {-1.0, 10.0}, Need::kOptional);
  v.Integer("warmup_steps", schedule.warmup_steps, Unit::kCount, 0, Need::kOptional);
  v.Choice("shape", schedule.shape, kShapes);
}

void VisitStage(FieldVisitor& v, StageConfig& stage) {
  v.Text("name", stage.name, Need::kRequired);
  v.Choice("objective", stage.objective, kObjectives, Need::kRequired);
  v.Choice("train", stage.train, kTrainableSets);
  v.Texts("train_matching", stage.train_matching);
  v.Integer("sequence_length", stage.sequence_length, Unit::kLength, 2, Need::kRequired);
  v.Integer("tokens", stage.tokens, Unit::kBudget, 1, Need::kRequired);
  v.Integer("batch_tokens", stage.batch_tokens, Unit::kLength, 2, Need::kRequired);
  v.Integer("micro_batch_tokens", stage.micro_batch_tokens, Unit::kLength, 0, Need::kOptional);
  v.Section("learning_rate",
            [&](FieldVisitor& nested) { VisitLearningRate(nested, stage.learning_rate); });
  v.Weights("mixture", stage.mixture);
  v.Flag("keep_documents_whole", stage.keep_documents_whole);
  v.Flag("sparse", stage.sparse);
  v.Choice("dense_rule", stage.dense_rule, kDenseRules);
  v.Integer("dense_length", stage.dense_length, Unit::kLength, -1, Need::kOptional);
  v.Flag("rope_in_kept_layers", stage.rope_in_kept_layers);
  v.Choice("optimizer_state", stage.optimizer_state, kOptimizerStates);
  v.Integer("context_parallel", stage.context_parallel, Unit::kCount, 1, Need::kOptional);
  v.Integer("tensor_parallel", stage.tensor_parallel, Unit::kCount, 1, Need::kOptional);
}

void VisitEvaluation(FieldVisitor& v, EvaluationConfig& evaluation) {
  v.Integer("every_steps", evaluation.every_steps, Unit::kCount, 0, Need::kOptional);
  v.Text("source", evaluation.source, Need::kOptional);
  v.Integer("sequence_length", evaluation.sequence_length, Unit::kLength, 0, Need::kOptional);
  v.Integer("sequences", evaluation.sequences, Unit::kCount, 0, Need::kOptional);
  v.Integers("recall_lengths", evaluation.recall_lengths, Unit::kLength);
  v.Numbers("recall_depths", evaluation.recall_depths);
  v.Integer("recall_samples", evaluation.recall_samples, Unit::kCount, 1, Need::kOptional);
}

void VisitCheckpoint(FieldVisitor& v, CheckpointConfig& checkpoint) {
  v.Integer("every_steps", checkpoint.every_steps, Unit::kCount, 0, Need::kOptional);
  v.Integer("keep_last", checkpoint.keep_last, Unit::kCount, 1, Need::kOptional);
  v.Integer("keep_every", checkpoint.keep_every, Unit::kCount, 0, Need::kOptional);
}

absl::Status Impossible(const std::string& key, absl::string_view found,
                        absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": ", found, "; ", expected));
}

absl::Status CheckMixture(const std::string& where, const StageConfig& stage,
                          const Recipe& recipe) {
  if (stage.mixture.empty())
    return Impossible(where + ".mixture", "is empty", "give each source a weight, as {text: 1}");
  double sum = 0.0;
  for (const auto& [source, weight] : stage.mixture) {
    if (recipe.data.count(source) == 0) {
      std::vector<std::string> names;
      for (const auto& [name, config] : recipe.data) names.push_back(name);
      return Impossible(absl::StrCat(where, ".mixture.", source),
                        "there is no such source under data",
                        absl::StrCat("use one of ", absl::StrJoin(names, ", ")));
    }
    if (weight < 0)
      return Impossible(absl::StrCat(where, ".mixture.", source), absl::StrCat(weight),
                        "a weight is at least 0");
    sum += weight;
  }
  return sum > 0 ? absl::OkStatus()
                 : Impossible(where + ".mixture", "every weight is 0",
                              "give one source a weight above 0");
}

absl::Status CheckLayout(const std::string& where, const StageConfig& stage, int ranks) {
  if (stage.context_parallel > 1 || stage.tensor_parallel > 1) {
    return Impossible(
        absl::StrCat(where, stage.context_parallel > 1 ? ".context_parallel" : ".tensor_parallel"),
        absl::StrCat(std::max(stage.context_parallel, stage.tensor_parallel)),
        "this version runs data parallel only; use 1 and more data ranks");
  }
  if (stage.batch_tokens % (stage.sequence_length * ranks) != 0) {
    return Impossible(
        where + ".batch_tokens", absl::StrCat(stage.batch_tokens),
        absl::StrCat("expected a multiple of sequence_length x ranks = ", stage.sequence_length,
                     " x ", ranks, " = ", stage.sequence_length * ranks));
  }
  if (stage.micro_batch_tokens % stage.sequence_length != 0) {
    return Impossible(
        where + ".micro_batch_tokens", absl::StrCat(stage.micro_batch_tokens),
        absl::StrCat("expected a multiple of sequence_length ", stage.sequence_length));
  }
  return absl::OkStatus();
}

absl::Status CheckStage(const std::string& where, const StageConfig& stage, const Recipe& recipe,
                        int ranks) {
  RETURN_IF_ERROR(CheckLayout(where, stage, ranks));
  RETURN_IF_ERROR(CheckMixture(where, stage, recipe));
  const ScheduleConfig& rate = stage.learning_rate;
  if (!(rate.peak > 0))
    return Impossible(where + ".learning_rate.peak", "is missing", "give the peak learning rate");
  if (rate.final > rate.peak) {
    return Impossible(where + ".learning_rate.final", absl::StrCat(rate.final),
                      absl::StrCat("expected at most the peak, ", rate.peak));
  }
  if (rate.shape == ScheduleShape::kExponential && rate.final == 0.0) {
    return Impossible(where + ".learning_rate.final", "0",
                      "an exponential decay never reaches 0; give a positive rate");
  }
  if (rate.warmup_steps > stage.steps()) {
    return Impossible(where + ".learning_rate.warmup_steps", absl::StrCat(rate.warmup_steps),
                      absl::StrCat("the stage has only ", stage.steps(), " steps"));
  }
  if (stage.objective == ObjectiveKind::kDistill && recipe.teacher.empty()) {
    return Impossible(where + ".objective", "distill needs a teacher",
                      "set teacher: to a checkpoint");
  }
  if ((stage.objective == ObjectiveKind::kAlign) != (stage.train == TrainableSet::kCandidates)) {
    return Impossible(where + ".train", "align trains the candidates, and nothing else trains them",
                      "set objective: align and train: candidates together");
  }
  if ((stage.train == TrainableSet::kMatching) == stage.train_matching.empty()) {
    return Impossible(where + ".train_matching",
                      stage.train_matching.empty() ? "is empty" : "is given",
                      "it goes with train: matching");
  }
  return absl::OkStatus();
}

}  // namespace

void VisitRecipe(FieldVisitor& v, Recipe& recipe) {
  v.Text("name", recipe.name, Need::kRequired);
  v.Text("run_directory", recipe.run_directory, Need::kRequired);
  v.Integer("seed", recipe.seed, Unit::kCount, 0, Need::kOptional);
  v.Section("model", [&](FieldVisitor& nested) {
    nested.Text("from", recipe.model.from, Need::kOptional);
    nested.Text("shape", recipe.model.shape, Need::kOptional);
  });
  v.Text("teacher", recipe.teacher, Need::kOptional);
  v.Map("data", recipe.data, VisitSource);
  v.Section("optimizer", [&](FieldVisitor& nested) { VisitOptimizer(nested, recipe.optimizer); });
  v.List("stages", recipe.stages, VisitStage);
  v.Section("evaluation",
            [&](FieldVisitor& nested) { VisitEvaluation(nested, recipe.evaluation); });
  v.Section("checkpoint",
            [&](FieldVisitor& nested) { VisitCheckpoint(nested, recipe.checkpoint); });
  v.Integer("log_every_steps", recipe.log_every_steps, Unit::kCount, 1, Need::kOptional);
}

absl::Status Recipe::Validate(int ranks) const {
  if (model.from.empty() == model.shape.empty()) {
    return Impossible("model", model.from.empty() ? "is empty" : "has both from and shape",
                      "give from: a checkpoint, or shape: a model file to train from scratch");
  }
  if (stages.empty()) return Impossible("stages", "is empty", "give at least one stage");
  if (data.empty()) return Impossible("data", "is empty", "name at least one source");
  if (!evaluation.source.empty() && data.count(evaluation.source) == 0) {
    return Impossible("evaluation.source", evaluation.source, "name a source under data");
  }
  for (size_t index = 0; index < stages.size(); ++index) {
    RETURN_IF_ERROR(CheckStage(absl::StrCat("stages[", index, "]"), stages[index], *this, ranks));
  }
  return absl::OkStatus();
}

absl::StatusOr<Recipe> ParseRecipe(absl::string_view text, const std::string& file,
                                   const std::vector<std::string>& overrides) {
  ASSIGN_OR_RETURN(ConfigNode root, ParseConfig(text, file));
  for (const std::string& assignment : overrides) RETURN_IF_ERROR(ApplyOverride(assignment, root));
  Recipe recipe;
  RETURN_IF_ERROR(
      ReadFields(root, file, [&](FieldVisitor& visitor) { VisitRecipe(visitor, recipe); }));
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
