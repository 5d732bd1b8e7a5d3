// What a recipe's fields must mean together. Keys, types and ranges were checked by the reader.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/status_macros.h"
#include "trainer/config/recipe.h"

namespace salamander {
namespace {

// Checks one recipe; every fault names the line of its key.
class RecipeChecker {
 public:
  RecipeChecker(const Recipe& recipe, int ranks) : recipe_(recipe), ranks_(ranks) {}

  absl::Status CheckAll() const;

 private:
  absl::Status Fault(const std::string& path, absl::string_view found,
                     absl::string_view expected) const {
    return absl::InvalidArgumentError(
        absl::StrCat(recipe_.places.At(path), ": ", found, "; ", expected));
  }

  absl::Status CheckSource(const std::string& path, const SourceConfig& source) const;
  absl::Status CheckOptimizer() const;
  absl::Status CheckEvaluation() const;
  absl::Status CheckStageOrder() const;
  absl::Status CheckTrainStage(const std::string& path, const StageConfig& stage) const;
  absl::Status CheckParallel(const std::string& path, const StageConfig& stage) const;
  absl::Status CheckSlices(const std::string& path, int64_t length, const StageConfig& stage) const;
  absl::Status CheckBatch(const std::string& path, const StageConfig& stage) const;
  absl::Status CheckSchedule(const std::string& path, const StageConfig& stage) const;
  absl::Status CheckMixture(const std::string& path, const StageConfig& stage) const;
  absl::Status CheckObjective(const std::string& path, const StageConfig& stage) const;

  std::string SourceNames() const {
    std::vector<std::string> names;
    for (const auto& [name, source] : recipe_.data) names.push_back(name);
    return absl::StrJoin(names, ", ");
  }

  const Recipe& recipe_;
  int64_t ranks_;
};

absl::Status RecipeChecker::CheckSource(const std::string& path, const SourceConfig& source) const {
  if (source.kind != SourceKind::kAssociativeRecall && source.pairs != SourceConfig().pairs)
    return Fault(path + ".pairs", "is given", "it goes with kind: associative_recall");
  if (source.kind == SourceKind::kTokens && source.sample_length != 0)
    return Fault(path + ".sample_length", "is given", "it goes with the recall kinds");
  return absl::OkStatus();
}

absl::Status RecipeChecker::CheckOptimizer() const {
  const std::vector<ParameterGroup>& groups = recipe_.optimizer.groups;
  for (size_t index = 0; index < groups.size(); ++index) {
    const double decay = groups[index].weight_decay;
    if (decay < 0 && decay != -1.0) {
      return Fault(absl::StrCat("optimizer.groups[", index, "].weight_decay"), absl::StrCat(decay),
                   "expected at least 0, or -1 for the optimizer's");
    }
  }
  return absl::OkStatus();
}

absl::Status RecipeChecker::CheckEvaluation() const {
  const EvaluationConfig& evaluation = recipe_.evaluation;
  if (evaluation.sequences == 0) return absl::OkStatus();
  if (!evaluation.source.empty()) {
    const auto found = recipe_.data.find(evaluation.source);
    if (found == recipe_.data.end()) {
      return Fault("evaluation.source", Shown(evaluation.source),
                   absl::StrCat("there is no such source under data; use one of ", SourceNames()));
    }
    if (found->second.kind != SourceKind::kTokens || !(found->second.held_out > 0)) {
      return Fault(absl::StrCat("data.", evaluation.source), "holds no documents out",
                   "evaluation.source names a source of kind tokens with held_out: 0.02, say");
    }
    return absl::OkStatus();
  }
  const bool has_held_out =
      std::any_of(recipe_.data.begin(), recipe_.data.end(), [](const auto& source) {
        return source.second.kind == SourceKind::kTokens && source.second.held_out > 0;
      });
  return has_held_out
             ? absl::OkStatus()
             : Fault("evaluation.sequences", absl::StrCat(evaluation.sequences),
                     "no source holds documents out; give a source of kind tokens held_out: 0.02, "
                     "say, or set evaluation.sequences: 0");
}

absl::Status RecipeChecker::CheckStageOrder() const {
  std::set<std::string> names;
  bool is_selected = false;
  for (size_t index = 0; index < recipe_.stages.size(); ++index) {
    const StageConfig& stage = recipe_.stages[index];
    const std::string path = absl::StrCat("stages[", index, "]");
    if (!names.insert(stage.name).second)
      return Fault(path + ".name", Shown(stage.name), "another stage has this name; rename one");
    if (index == 0 && stage.kind != StageKind::kTrain && recipe_.model.from.empty()) {
      return Fault("model.from", "is missing",
                   "a recipe that begins with a convert or select stage needs a checkpoint");
    }
    is_selected = is_selected || stage.kind == StageKind::kSelect;
    if (stage.kind == StageKind::kConvert && stage.convert.keep == kSelectedLayers &&
        !is_selected) {
      return Fault(path + ".convert.keep", "'selected'",
                   "no select stage comes before; add one, or give a keep.yaml or a list 0,3,11");
    }
  }
  return absl::OkStatus();
}

absl::Status RecipeChecker::CheckParallel(const std::string& path, const StageConfig& stage) const {
  int64_t left = ranks_;
  std::string taken;
  for (const auto& [name, size] : {std::pair("tensor_parallel", stage.tensor_parallel),
                                   std::pair("context_parallel", stage.context_parallel)}) {
    if (left % size != 0) {
      std::vector<int64_t> divisors;
      for (int64_t divisor = 1; divisor <= left; ++divisor) {
        if (left % divisor == 0) divisors.push_back(divisor);
      }
      return Fault(absl::StrCat(path, ".", name), absl::StrCat(size),
                   absl::StrCat("it does not divide the ", left, " ranks", taken, "; use one of ",
                                absl::StrJoin(divisors, ", ")));
    }
    left /= size;
    if (size > 1) taken = absl::StrCat(" left after ", name, "=", size);
  }
  RETURN_IF_ERROR(CheckSlices(path + ".sequence_length", stage.sequence_length, stage));
  const EvaluationConfig& evaluation = recipe_.evaluation;
  RETURN_IF_ERROR(CheckSlices("evaluation.sequence_length", evaluation.sequence_length, stage));
  for (size_t index = 0; index < evaluation.recall_lengths.size(); ++index) {
    RETURN_IF_ERROR(CheckSlices(absl::StrCat("evaluation.recall_lengths[", index, "]"),
                                evaluation.recall_lengths[index], stage));
  }
  return absl::OkStatus();
}

// Context ranks take slices of a sequence, and tensor ranks take shares of the rows of a slice.
absl::Status RecipeChecker::CheckSlices(const std::string& path, int64_t length,
                                        const StageConfig& stage) const {
  const int64_t slices = stage.context_parallel * stage.tensor_parallel;
  if (length % slices == 0) return absl::OkStatus();
  return Fault(
      path, absl::StrCat(length),
      absl::StrCat("expected a multiple of context_parallel x tensor_parallel = ",
                   stage.context_parallel, " x ", stage.tensor_parallel, " of stage ", stage.name));
}

absl::Status RecipeChecker::CheckBatch(const std::string& path, const StageConfig& stage) const {
  const int64_t data_ranks = ranks_ / (stage.context_parallel * stage.tensor_parallel);
  const int64_t sequences = stage.batch_tokens / stage.sequence_length;
  if (stage.batch_tokens % stage.sequence_length != 0 || sequences == 0 ||
      sequences % data_ranks != 0) {
    return Fault(path + ".batch_tokens", absl::StrCat(stage.batch_tokens),
                 absl::StrCat("expected a multiple of sequence_length x data ranks = ",
                              stage.sequence_length, " x ", data_ranks));
  }
  if (stage.micro_batch_tokens % stage.sequence_length != 0) {
    return Fault(path + ".micro_batch_tokens", absl::StrCat(stage.micro_batch_tokens),
                 absl::StrCat("expected a multiple of sequence_length=", stage.sequence_length));
  }
  if (stage.micro_batch_tokens > stage.batch_tokens / data_ranks) {
    return Fault(path + ".micro_batch_tokens", absl::StrCat(stage.micro_batch_tokens),
                 absl::StrCat("expected at most a rank's share of the batch, ",
                              stage.batch_tokens / data_ranks));
  }
  return absl::OkStatus();
}

absl::Status RecipeChecker::CheckSchedule(const std::string& path, const StageConfig& stage) const {
  const ScheduleConfig& rate = stage.learning_rate;
  const std::string final_path = path + ".schedule.final_lr";
  if (rate.final < 0 && rate.final != -1.0)
    return Fault(final_path, absl::StrCat(rate.final), "expected at least 0");
  if (rate.shape == ScheduleShape::kConstant && rate.final >= 0)
    return Fault(final_path, absl::StrCat(rate.final), "a constant rate has none; leave it out");
  if (rate.shape != ScheduleShape::kConstant && rate.final < 0) {
    return Fault(final_path, "is missing",
                 "a rate that falls needs the value it reaches at the stage's last step");
  }
  if (rate.final > rate.peak) {
    return Fault(final_path, absl::StrCat(rate.final),
                 absl::StrCat("expected at most peak_lr=", rate.peak));
  }
  if (rate.shape == ScheduleShape::kExponential && rate.final == 0.0) {
    return Fault(final_path, "0", "an exponential decay never reaches 0; give a positive rate");
  }
  if (rate.warmup_steps > 0 && rate.warmup_tokens > 0) {
    return Fault(path + ".schedule.warmup_tokens", "is given beside warmup_steps", "keep one");
  }
  const int64_t warmup_steps = stage.ScheduleInSteps().warmup_steps;
  if (warmup_steps > stage.steps()) {
    return Fault(
        path + (rate.warmup_tokens > 0 ? ".schedule.warmup_tokens" : ".schedule.warmup_steps"),
        absl::StrCat(warmup_steps, " steps"), absl::StrCat("the stage has only ", stage.steps()));
  }
  return absl::OkStatus();
}

absl::Status RecipeChecker::CheckMixture(const std::string& path, const StageConfig& stage) const {
  if (stage.mixture.empty())
    return Fault(path + ".mixture", "is empty", "give each source a weight, as {text: 1}");
  double sum = 0.0;
  for (const auto& [name, weight] : stage.mixture) {
    const std::string entry = absl::StrCat(path, ".mixture.", name);
    const auto source = recipe_.data.find(name);
    if (source == recipe_.data.end()) {
      return Fault(entry, "there is no such source under data",
                   absl::StrCat("use one of ", SourceNames()));
    }
    if (weight < 0) return Fault(entry, absl::StrCat(weight), "a weight is at least 0");
    if (source->second.sample_length > stage.sequence_length) {
      return Fault(absl::StrCat("data.", name, ".sample_length"),
                   absl::StrCat(source->second.sample_length),
                   absl::StrCat("expected at most the sequence_length=", stage.sequence_length,
                                " of ", path));
    }
    sum += weight;
  }
  return sum > 0 ? absl::OkStatus()
                 : Fault(path + ".mixture", "every weight is 0",
                         "give at least one source a weight above 0");
}

absl::Status RecipeChecker::CheckObjective(const std::string& path,
                                           const StageConfig& stage) const {
  if (stage.objective == ObjectiveKind::kDistill && recipe_.teacher.empty()) {
    return Fault(path + ".objective", "'distill'",
                 "it needs a teacher; set teacher: to a checkpoint");
  }
  if ((stage.objective == ObjectiveKind::kAlign) != (stage.train == TrainableSet::kCandidates)) {
    return Fault(path + ".train", "align trains the candidates, and nothing else trains them",
                 "set objective: align and train: candidates together");
  }
  if (stage.recomputation == Recomputation::kNone && !stage.recomputed_layers.empty()) {
    return Fault(path + ".recomputed_layers", "is given",
                 "it goes with recomputation: attention or full");
  }
  if ((stage.train == TrainableSet::kMatching) == stage.train_matching.empty()) {
    return Fault(path + ".train_matching", stage.train_matching.empty() ? "is empty" : "is given",
                 "it goes with train: matching, and lists patterns as layers.*.mlp.*");
  }
  return absl::OkStatus();
}

absl::Status RecipeChecker::CheckTrainStage(const std::string& path,
                                            const StageConfig& stage) const {
  RETURN_IF_ERROR(CheckParallel(path, stage));
  RETURN_IF_ERROR(CheckBatch(path, stage));
  RETURN_IF_ERROR(CheckSchedule(path, stage));
  RETURN_IF_ERROR(CheckMixture(path, stage));
  return CheckObjective(path, stage);
}

absl::Status RecipeChecker::CheckAll() const {
  if (recipe_.model.from.empty() == recipe_.model.shape.empty()) {
    return Fault("model", recipe_.model.from.empty() ? "is empty" : "has both from and shape",
                 "give from: a checkpoint, or shape: a model file to train from scratch");
  }
  if (recipe_.stages.empty()) return Fault("stages", "is empty", "give at least one stage");
  if (recipe_.data.empty()) return Fault("data", "is empty", "name at least one source");
  for (const auto& [name, source] : recipe_.data)
    RETURN_IF_ERROR(CheckSource(absl::StrCat("data.", name), source));
  RETURN_IF_ERROR(CheckOptimizer());
  RETURN_IF_ERROR(CheckEvaluation());
  RETURN_IF_ERROR(CheckStageOrder());
  for (size_t index = 0; index < recipe_.stages.size(); ++index) {
    const StageConfig& stage = recipe_.stages[index];
    if (stage.kind != StageKind::kTrain) continue;
    RETURN_IF_ERROR(CheckTrainStage(absl::StrCat("stages[", index, "]"), stage));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Recipe::Validate(int ranks) const {
  return RecipeChecker(*this, ranks).CheckAll();
}

}  // namespace salamander
