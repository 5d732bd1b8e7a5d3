#include "trainer/config/recipe_diff.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/logging.h"
#include "trainer/report/table.h"

namespace salamander {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

constexpr absl::string_view kNone = "-";

enum class Effect {
  kTakesEffect,
  kIgnored,
  kRefused,
  kBudget,   // a stage's tokens: not below what is done
  kSource,   // by who has drawn from the source and who will
  kTeacher,  // by which stages distil
};

struct Rule {
  absl::string_view pattern;
  Effect effect;
  absl::string_view reason;
};

constexpr absl::string_view kNextStep = "from the next step on";
constexpr absl::string_view kCursor = "the stage's place in the data rests on it";
constexpr absl::string_view kMeaning = "the stage under way would train something else";

// The longest pattern that matches decides. The rules for stages are those of the stage under way.
constexpr Rule kRules[] = {
    {"name", Effect::kTakesEffect, kNextStep},
    {"run_directory", Effect::kTakesEffect, "the run goes on where it was found"},
    {"seed", Effect::kRefused, "the order of the data follows from it"},
    {"device", Effect::kTakesEffect, "a run goes on on any device, rounding as that one does"},
    {"deterministic", Effect::kTakesEffect, "from the next step on; it changes rounding alone"},
    {"model.*", Effect::kIgnored, "the weights come from the checkpoint"},
    {"teacher", Effect::kTeacher, ""},
    {"data.*", Effect::kSource, ""},
    {"optimizer.*", Effect::kTakesEffect, kNextStep},
    {"evaluation.*", Effect::kTakesEffect, "from the next evaluation on"},
    {"checkpoint.*", Effect::kTakesEffect, "from the next checkpoint on"},
    {"log_every_steps", Effect::kTakesEffect, kNextStep},
    {"context_parallel", Effect::kIgnored, "each stage has its own"},
    {"tensor_parallel", Effect::kIgnored, "each stage has its own"},
    {"stages[*].name", Effect::kTakesEffect, kNextStep},
    {"stages[*].kind", Effect::kRefused, kMeaning},
    {"stages[*].convert.*", Effect::kRefused, kMeaning},
    {"stages[*].select.*", Effect::kRefused, kMeaning},
    {"stages[*].objective", Effect::kRefused, kMeaning},
    {"stages[*].train", Effect::kRefused, kMeaning},
    {"stages[*].train_matching", Effect::kRefused, kMeaning},
    {"stages[*].sequence_length", Effect::kRefused, kCursor},
    {"stages[*].tokens", Effect::kBudget, ""},
    {"stages[*].batch_tokens", Effect::kRefused, kCursor},
    {"stages[*].micro_batch_tokens", Effect::kTakesEffect, "the same batch in other pieces"},
    {"stages[*].peak_lr", Effect::kTakesEffect, kNextStep},
    {"stages[*].schedule.*", Effect::kTakesEffect, kNextStep},
    {"stages[*].mixture", Effect::kRefused, kCursor},
    {"stages[*].keep_documents_whole", Effect::kRefused, kCursor},
    {"stages[*].sparse", Effect::kRefused, kMeaning},
    {"stages[*].dense_rule", Effect::kRefused, kMeaning},
    {"stages[*].dense_length", Effect::kRefused, kMeaning},
    {"stages[*].rope_in_kept_layers", Effect::kRefused, kMeaning},
    {"stages[*].optimizer_state", Effect::kIgnored, "it acts at a stage's first step"},
    {"stages[*].recomputation", Effect::kTakesEffect, kNextStep},
    {"stages[*].recomputed_layers", Effect::kTakesEffect, kNextStep},
    {"stages[*].context_parallel", Effect::kTakesEffect, "a run goes on in any layout"},
    {"stages[*].tensor_parallel", Effect::kTakesEffect, "a run goes on in any layout"},
};

const Rule& RuleFor(absl::string_view key) {
  const Rule* longest = nullptr;
  for (const Rule& rule : kRules) {
    if (MatchesPattern(key, rule.pattern) &&
        (longest == nullptr || rule.pattern.size() > longest->pattern.size())) {
      longest = &rule;
    }
  }
  SALAMANDER_CHECK(longest != nullptr) << "no rule says what a change of " << key << " does";
  return *longest;
}

struct Judgement {
  ChangeVerdict verdict;
  std::string reason;
};

Judgement TakesEffect(absl::string_view reason) {
  return {ChangeVerdict::kTakesEffect, std::string(reason)};
}
Judgement Ignored(absl::string_view reason) {
  return {ChangeVerdict::kIgnored, std::string(reason)};
}
Judgement Refused(absl::string_view reason) {
  return {ChangeVerdict::kRefused, std::string(reason)};
}

// The list item or named section a key belongs to: "stages[3]", "data.text",
// "optimizer.groups[0]". Only these come and go, or change their kind; every other key is in every
// recipe.
std::string ElementOf(const std::string& key) {
  if (absl::StartsWith(key, "stages[")) return key.substr(0, key.find(']') + 1);
  return key.substr(0, key.rfind('.'));
}

// The N of "stages[N]..."; -1 for other keys.
int64_t StageOf(absl::string_view key) {
  constexpr absl::string_view kStages = "stages[";
  int64_t index = -1;
  if (!absl::StartsWith(key, kStages)) return -1;
  const absl::string_view rest = key.substr(kStages.size());
  SALAMANDER_CHECK(absl::SimpleAtoi(rest.substr(0, rest.find(']')), &index)) << key;
  return index;
}

bool HasStage(const Recipe& recipe, const std::string& name) {
  return std::any_of(recipe.stages.begin(), recipe.stages.end(),
                     [&](const StageConfig& stage) { return stage.name == name; });
}

class Comparison {
 public:
  Comparison(const Recipe& stored, const Recipe& edited, const RunPosition& position)
      : stored_(stored), edited_(edited), position_(position) {}

  // `key` names a field that both recipes have, or an element that one of them has.
  Judgement Judge(const std::string& key, bool is_element) const {
    const int64_t stage = StageOf(key);
    if (stage >= 0 && is_element) return JudgeStageElement(stage);
    if (stage >= 0) return JudgeStageField(key, static_cast<size_t>(stage));
    return Apply(RuleFor(key), key, is_element);
  }

 private:
  bool is_under_way(int64_t stage) const {
    return stage == position_.stage && position_.stage_step > 0;
  }
  // Stages before this have made steps.
  int64_t begun_stages() const { return position_.stage + (position_.stage_step > 0 ? 1 : 0); }

  Judgement JudgeStageElement(int64_t stage) const {
    if (stage >= static_cast<int64_t>(stored_.stages.size()))
      return TakesEffect("the run goes on with it");
    if (stage >= begun_stages()) {
      return TakesEffect(stage < static_cast<int64_t>(edited_.stages.size())
                             ? "when the stage begins"
                             : "the run ends without it");
    }
    return Refused("a stage that has begun keeps its place in the list");
  }

  Judgement JudgeStageField(const std::string& key, size_t stage) const {
    const auto index = static_cast<int64_t>(stage);
    const Rule& rule = RuleFor(key);
    if (index >= begun_stages()) return TakesEffect("when the stage begins");
    if (absl::EndsWith(key, "].name") && (HasStage(edited_, stored_.stages[stage].name) ||
                                          HasStage(stored_, edited_.stages[stage].name))) {
      return Refused("a stage that has begun keeps its place in the list");
    }
    if (!is_under_way(index)) return Ignored("the stage is finished");
    return Apply(rule, key, false);
  }

  Judgement Apply(const Rule& rule, const std::string& key, bool is_element) const {
    switch (rule.effect) {
      case Effect::kTakesEffect:
        return TakesEffect(rule.reason);
      case Effect::kIgnored:
        return Ignored(rule.reason);
      case Effect::kRefused:
        return Refused(rule.reason);
      case Effect::kBudget:
        return JudgeBudget();
      case Effect::kSource:
        return JudgeSource((is_element ? key : ElementOf(key)).substr(std::string("data.").size()));
      case Effect::kTeacher:
        return JudgeTeacher();
    }
    return Refused("");
  }

  Judgement JudgeBudget() const {
    const auto stage = static_cast<size_t>(position_.stage);
    const int64_t batch = stored_.stages[stage].batch_tokens;
    const int64_t done = position_.stage_step * batch;
    if (edited_.stages[stage].tokens <= done - batch)
      return Refused(absl::StrCat("the stage has trained on ", done, " tokens already"));
    return TakesEffect("the stage ends, and its learning rate falls, by it");
  }

  // Whether stages [begin, end) of the list draw from a source.
  static bool IsDrawnFrom(const Recipe& recipe, const std::string& source, int64_t begin,
                          int64_t end) {
    for (int64_t stage = begin; stage < end; ++stage) {
      const auto& mixture = recipe.stages[static_cast<size_t>(stage)].mixture;
      const auto found = mixture.find(source);
      if (found != mixture.end() && found->second > 0) return true;
    }
    return false;
  }

  bool EvaluationReads(const std::string& source) const {
    const auto found = edited_.data.find(source);
    if (found == edited_.data.end()) return false;
    const EvaluationConfig& evaluation = edited_.evaluation;
    if (found->second.kind == SourceKind::kAssociativeRecall)
      return !evaluation.recall_lengths.empty();
    return evaluation.source.empty() ? found->second.held_out > 0 : evaluation.source == source;
  }

  Judgement JudgeSource(const std::string& source) const {
    const auto stages = static_cast<int64_t>(edited_.stages.size());
    if (IsDrawnFrom(edited_, source, position_.stage, stages)) {
      const int64_t begun = std::min(begun_stages(), static_cast<int64_t>(stored_.stages.size()));
      if (!IsDrawnFrom(stored_, source, 0, begun))
        return TakesEffect("no stage has drawn from it yet");
      return Refused("the run is in the middle of it (a file that moved may be linked to)");
    }
    if (EvaluationReads(source)) return TakesEffect("evaluation alone reads it");
    return Ignored("no stage to come draws from it");
  }

  Judgement JudgeTeacher() const {
    const auto distils = [](const StageConfig& stage) {
      return stage.objective == ObjectiveKind::kDistill;
    };
    const auto stage = static_cast<size_t>(position_.stage);
    if (stage < stored_.stages.size() && is_under_way(position_.stage) &&
        distils(stored_.stages[stage])) {
      return Refused(absl::StrCat(kMeaning, " (a teacher that moved may be linked to)"));
    }
    const size_t next = std::min(stage, edited_.stages.size());
    if (std::any_of(edited_.stages.begin() + static_cast<ptrdiff_t>(next), edited_.stages.end(),
                    distils)) {
      return TakesEffect("when a stage distils");
    }
    return Ignored("no stage to come distils");
  }

  const Recipe& stored_;
  const Recipe& edited_;
  RunPosition position_;
};

absl::string_view VerdictName(ChangeVerdict verdict) {
  switch (verdict) {
    case ChangeVerdict::kTakesEffect:
      return "takes effect";
    case ChangeVerdict::kIgnored:
      return "ignored";
    case ChangeVerdict::kRefused:
      return "refused";
  }
  return "";
}

}  // namespace

std::vector<RecipeChange> CompareRecipes(const Recipe& stored, const Recipe& edited,
                                         const RunPosition& position) {
  const Comparison comparison(stored, edited, position);
  const Fields stored_fields = FlattenRecipe(stored);
  const Fields edited_fields = FlattenRecipe(edited);
  const std::map<std::string, std::string> stored_values(stored_fields.begin(),
                                                         stored_fields.end());
  const std::map<std::string, std::string> edited_values(edited_fields.begin(),
                                                         edited_fields.end());
  std::vector<RecipeChange> changes;
  std::set<std::string> elements;
  const auto add = [&](const std::string& key, absl::string_view from, absl::string_view to,
                       bool is_element) {
    Judgement judgement = comparison.Judge(key, is_element);
    changes.push_back({.key = key,
                       .stored = std::string(from),
                       .edited = std::string(to),
                       .verdict = judgement.verdict,
                       .reason = std::move(judgement.reason)});
  };
  for (const auto& [key, value] : stored_fields) {
    const auto found = edited_values.find(key);
    if (found == edited_values.end()) {
      const std::string element = ElementOf(key);
      if (elements.insert(element).second) add(element, "there", kNone, true);
    } else if (found->second != value) {
      add(key, value, found->second, false);
    }
  }
  for (const auto& [key, value] : edited_fields) {
    if (stored_values.count(key) != 0) continue;
    const std::string element = ElementOf(key);
    if (elements.insert(element).second) add(element, kNone, "there", true);
  }
  return changes;
}

std::string RecipeChangesText(absl::Span<const RecipeChange> changes) {
  Table table({"key", "stored", "edited", "verdict", "reason"});
  for (const RecipeChange& change : changes) {
    table.AddRow({change.key, change.stored, change.edited,
                  std::string(VerdictName(change.verdict)), change.reason});
  }
  return table.Text();
}

absl::Status TellRecipeChanges(absl::Span<const RecipeChange> changes) {
  if (changes.empty()) return absl::OkStatus();
  LogInfo(
      absl::StrCat("the recipe was edited since the run stopped:\n", RecipeChangesText(changes)));
  std::vector<std::string> refused;
  for (const RecipeChange& change : changes) {
    if (change.verdict != ChangeVerdict::kRefused) continue;
    refused.push_back(absl::StrCat(change.key, ": ", change.edited, ", the run began with ",
                                   change.stored, ": ", change.reason));
  }
  if (refused.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the run cannot go on with the edited recipe: ", absl::StrJoin(refused, "; "),
                   "; restore these keys, or begin another run in another run_directory"));
}

}  // namespace salamander
