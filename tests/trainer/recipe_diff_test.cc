#include "trainer/config/recipe_diff.h"

#include <algorithm>
#include <functional>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr ChangeVerdict kTakesEffect = ChangeVerdict::kTakesEffect;
constexpr ChangeVerdict kIgnored = ChangeVerdict::kIgnored;
constexpr ChangeVerdict kRefused = ChangeVerdict::kRefused;

StageConfig Stage(const std::string& name, ObjectiveKind objective, const std::string& source) {
  StageConfig stage;
  stage.name = name;
  stage.objective = objective;
  stage.sequence_length = 256;
  stage.tokens = 10240;
  stage.batch_tokens = 1024;
  stage.learning_rate.peak = 1e-3;
  stage.mixture = {{source, 1.0}};
  return stage;
}

// Four stages, each with a source of its own; only the second distils.
Recipe FourStages() {
  Recipe recipe;
  recipe.name = "run";
  recipe.run_directory = "runs/run";
  recipe.model.from = "base.ckpt";
  recipe.teacher = "teacher.ckpt";
  for (const char* name : {"a", "b", "c", "d", "unused"})
    recipe.data[name] = {.path = absl::StrCat(name, ".tokens")};
  recipe.optimizer.groups = {{.match = "*norm*"}};
  recipe.stages = {Stage("first", ObjectiveKind::kLm, "a"),
                   Stage("second", ObjectiveKind::kDistill, "b"),
                   Stage("third", ObjectiveKind::kLm, "c"), Stage("last", ObjectiveKind::kLm, "d")};
  return recipe;
}

constexpr RunPosition kInSecond{.stage = 1, .stage_step = 4};
constexpr RunPosition kBeforeThird{.stage = 2, .stage_step = 0};

using Edit = std::function<void(Recipe&)>;

std::vector<RecipeChange> Changes(const Edit& edit, const RunPosition& position) {
  const Recipe stored = FourStages();
  Recipe edited = stored;
  edit(edited);
  return CompareRecipes(stored, edited, position);
}

// The one change an edit makes; key "none" or "several" where it is not one.
RecipeChange OneChange(const Edit& edit, const RunPosition& position) {
  std::vector<RecipeChange> changes = Changes(edit, position);
  if (changes.size() == 1) return changes[0];
  RecipeChange none_or_several;
  none_or_several.key = changes.empty() ? "none" : "several\n" + RecipeChangesText(changes);
  return none_or_several;
}

TEST(RecipeDiffTest, EqualRecipesHaveNoChanges) {
  EXPECT_THAT(Changes([](Recipe&) {}, kInSecond), IsEmpty());
  EXPECT_TRUE(TellRecipeChanges({}).ok());
}

TEST(RecipeDiffTest, JudgesEveryKeyOutsideTheStages) {
  struct Case {
    std::string key;
    Edit edit;
    ChangeVerdict verdict;
  };
  const Case cases[] = {
      {"name", [](Recipe& r) { r.name = "other"; }, kTakesEffect},
      {"run_directory", [](Recipe& r) { r.run_directory = "elsewhere"; }, kTakesEffect},
      {"seed", [](Recipe& r) { r.seed = 5; }, kRefused},
      {"device", [](Recipe& r) { r.device = DeviceChoice::kCpu; }, kTakesEffect},
      {"deterministic", [](Recipe& r) { r.deterministic = true; }, kTakesEffect},
      {"model.from", [](Recipe& r) { r.model.from = "moved.ckpt"; }, kIgnored},
      {"model.shape", [](Recipe& r) { r.model.shape = "shape.yaml"; }, kIgnored},
      {"optimizer.beta1", [](Recipe& r) { r.optimizer.beta1 = 0.8; }, kTakesEffect},
      {"optimizer.clip_norm", [](Recipe& r) { r.optimizer.clip_norm = 0.5; }, kTakesEffect},
      {"optimizer.weight_decay", [](Recipe& r) { r.optimizer.weight_decay = 0.1; }, kTakesEffect},
      {"optimizer.groups[0].learning_rate_multiplier",
       [](Recipe& r) { r.optimizer.groups[0].learning_rate_multiplier = 2; }, kTakesEffect},
      {"optimizer.groups[1]", [](Recipe& r) { r.optimizer.groups.push_back({.match = "*"}); },
       kTakesEffect},
      {"optimizer.groups[0]", [](Recipe& r) { r.optimizer.groups.clear(); }, kTakesEffect},
      {"evaluation.sequences", [](Recipe& r) { r.evaluation.sequences = 3; }, kTakesEffect},
      {"evaluation.recall_lengths", [](Recipe& r) { r.evaluation.recall_lengths = {512}; },
       kTakesEffect},
      {"checkpoint.keep_last", [](Recipe& r) { r.checkpoint.keep_last = 9; }, kTakesEffect},
      {"tensor_parallel", [](Recipe& r) { r.tensor_parallel = 2; }, kIgnored},
      {"context_parallel", [](Recipe& r) { r.context_parallel = 2; }, kIgnored},
      {"log_every_steps", [](Recipe& r) { r.log_every_steps = 1; }, kTakesEffect},
  };
  for (const Case& item : cases) {
    const RecipeChange change = OneChange(item.edit, kInSecond);
    EXPECT_EQ(change.key, item.key);
    EXPECT_EQ(change.verdict, item.verdict) << item.key;
    EXPECT_FALSE(change.reason.empty()) << item.key;
  }
}

struct StageCase {
  std::string key;
  std::function<void(StageConfig&)> edit;
  ChangeVerdict under_way;
};

const std::vector<StageCase>& StageCases() {
  static const std::vector<StageCase> cases = {
      {"name", [](StageConfig& s) { s.name = "renamed"; }, kTakesEffect},
      {"objective", [](StageConfig& s) { s.objective = ObjectiveKind::kAlign; }, kRefused},
      {"train", [](StageConfig& s) { s.train = TrainableSet::kMixers; }, kRefused},
      {"train_matching", [](StageConfig& s) { s.train_matching = {"*"}; }, kRefused},
      {"sequence_length", [](StageConfig& s) { s.sequence_length = 512; }, kRefused},
      {"tokens", [](StageConfig& s) { s.tokens = 20480; }, kTakesEffect},
      {"batch_tokens", [](StageConfig& s) { s.batch_tokens = 2048; }, kRefused},
      {"micro_batch_tokens", [](StageConfig& s) { s.micro_batch_tokens = 512; }, kTakesEffect},
      {"peak_lr", [](StageConfig& s) { s.learning_rate.peak = 1; }, kTakesEffect},
      {"schedule.final_lr", [](StageConfig& s) { s.learning_rate.final = 0; }, kTakesEffect},
      {"schedule.warmup_steps", [](StageConfig& s) { s.learning_rate.warmup_steps = 2; },
       kTakesEffect},
      {"schedule.shape", [](StageConfig& s) { s.learning_rate.shape = ScheduleShape::kLinear; },
       kTakesEffect},
      {"mixture", [](StageConfig& s) { s.mixture["a"] = 2; }, kRefused},
      {"keep_documents_whole", [](StageConfig& s) { s.keep_documents_whole = true; }, kRefused},
      {"sparse", [](StageConfig& s) { s.sparse = true; }, kRefused},
      {"dense_rule", [](StageConfig& s) { s.dense_rule = DenseRule::kPerQuery; }, kRefused},
      {"dense_length", [](StageConfig& s) { s.dense_length = 0; }, kRefused},
      {"rope_in_kept_layers", [](StageConfig& s) { s.rope_in_kept_layers = true; }, kRefused},
      {"optimizer_state", [](StageConfig& s) { s.optimizer_state = OptimizerState::kReset; },
       kIgnored},
      {"schedule.warmup_tokens", [](StageConfig& s) { s.learning_rate.warmup_tokens = 2048; },
       kTakesEffect},
      {"recomputation", [](StageConfig& s) { s.recomputation = Recomputation::kFull; },
       kTakesEffect},
      {"recomputed_layers", [](StageConfig& s) { s.recomputed_layers = {0}; }, kTakesEffect},
      {"context_parallel", [](StageConfig& s) { s.context_parallel = 2; }, kTakesEffect},
      {"tensor_parallel", [](StageConfig& s) { s.tensor_parallel = 2; }, kTakesEffect},
  };
  return cases;
}

TEST(RecipeDiffTest, TheStageUnderWayKeepsItsDataAndItsObjective) {
  for (const StageCase& item : StageCases()) {
    const RecipeChange change =
        OneChange([&](Recipe& recipe) { item.edit(recipe.stages[1]); }, kInSecond);
    EXPECT_EQ(change.key, absl::StrCat("stages[1].", item.key));
    EXPECT_EQ(change.verdict, item.under_way) << item.key;
    EXPECT_FALSE(change.reason.empty()) << item.key;
  }
}

TEST(RecipeDiffTest, EveryKeyOfAStageHasACase) {
  std::set<std::string> keys;
  for (const StageCase& item : StageCases()) keys.insert(item.key);
  keys.insert("kind");  // RecipeDiffTest.AStageAheadMayChangeItsKind
  for (const auto& [path, value] : FlattenRecipe(FourStages())) {
    const std::string prefix = "stages[0].";
    if (path.substr(0, prefix.size()) == prefix) {
      EXPECT_EQ(keys.count(path.substr(prefix.size())), 1u) << path;
    }
  }
}

TEST(RecipeDiffTest, FinishedStagesAreIgnoredAndLaterOnesFree) {
  for (const StageCase& item : StageCases()) {
    EXPECT_EQ(OneChange([&](Recipe& recipe) { item.edit(recipe.stages[0]); }, kInSecond).verdict,
              kIgnored)
        << item.key;
    // The stage that is next, and one beyond it.
    for (const size_t stage : {2u, 3u}) {
      const RecipeChange change =
          OneChange([&](Recipe& recipe) { item.edit(recipe.stages[stage]); }, kBeforeThird);
      EXPECT_EQ(change.verdict, kTakesEffect) << item.key;
      EXPECT_THAT(change.reason, HasSubstr("begins"));
    }
  }
}

TEST(RecipeDiffTest, ABudgetMayShrinkToWhatIsDoneAndNoFurther) {
  // Four batches of 1024 are done; the fourth may have begun at 3073 tokens.
  for (const auto& [tokens, verdict] :
       {std::pair(4096, kTakesEffect), std::pair(3073, kTakesEffect), std::pair(3072, kRefused)}) {
    const RecipeChange change =
        OneChange([t = tokens](Recipe& recipe) { recipe.stages[1].tokens = t; }, kInSecond);
    EXPECT_EQ(change.verdict, verdict) << tokens;
  }
  EXPECT_THAT(OneChange([](Recipe& recipe) { recipe.stages[1].tokens = 1; }, kInSecond).reason,
              HasSubstr("4096"));
}

TEST(RecipeDiffTest, ASourceThatIsDrawnFromKeepsItsPlace) {
  for (const auto& [source, verdict] :
       {std::pair("a", kIgnored), std::pair("b", kRefused), std::pair("c", kTakesEffect),
        std::pair("unused", kIgnored)}) {
    const std::string name = source;
    const std::pair<std::string, std::function<void(SourceConfig&)>> edits[] = {
        {"path", [](SourceConfig& config) { config.path = "other"; }},
        {"kind", [](SourceConfig& config) { config.kind = SourceKind::kNeedle; }},
        {"sample_length", [](SourceConfig& config) { config.sample_length = 64; }},
    };
    for (const auto& [key, edit] : edits) {
      const RecipeChange change =
          OneChange([&, &edit = edit](Recipe& recipe) { edit(recipe.data[name]); }, kInSecond);
      EXPECT_EQ(change.key, absl::StrCat("data.", name, ".", key));
      EXPECT_EQ(change.verdict, verdict) << change.key;
    }
  }
}

TEST(RecipeDiffTest, ASourceTwoStagesShareIsInTheMiddle) {
  Recipe stored = FourStages();
  stored.stages[3].mixture = {{"a", 1.0}};
  Recipe edited = stored;
  edited.data["a"].held_out = 0.1;
  const auto changes = CompareRecipes(stored, edited, kInSecond);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].verdict, kRefused);
  EXPECT_THAT(changes[0].reason, HasSubstr("middle"));
}

TEST(RecipeDiffTest, ASourceForEvaluationAloneTakesEffect) {
  Recipe stored = FourStages();
  stored.evaluation.source = "unused";
  Recipe edited = stored;
  edited.data["unused"].held_out = 0.1;
  const auto changes = CompareRecipes(stored, edited, kInSecond);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].verdict, kTakesEffect);
}

TEST(RecipeDiffTest, SourcesComeAndGoAsOneChange) {
  const auto added = Changes(
      [](Recipe& recipe) {
        recipe.data["new.with.dots"] = {.path = "new"};
        recipe.stages[3].mixture = {{"new.with.dots", 1.0}};
      },
      kInSecond);
  ASSERT_EQ(added.size(), 2u) << RecipeChangesText(added);
  EXPECT_EQ(added[1].key, "data.new.with.dots");
  EXPECT_EQ(added[1].verdict, kTakesEffect);
  const RecipeChange removed = OneChange([](Recipe& r) { r.data.erase("unused"); }, kInSecond);
  EXPECT_EQ(removed.key, "data.unused");
  EXPECT_EQ(removed.verdict, kIgnored);
}

TEST(RecipeDiffTest, TheTeacherStaysWhileAStageDistils) {
  const Edit edit = [](Recipe& recipe) { recipe.teacher = "other.ckpt"; };
  EXPECT_EQ(OneChange(edit, {.stage = 0, .stage_step = 3}).verdict, kTakesEffect);
  EXPECT_EQ(OneChange(edit, {.stage = 1, .stage_step = 0}).verdict, kTakesEffect);
  EXPECT_EQ(OneChange(edit, kInSecond).verdict, kRefused);
  EXPECT_EQ(OneChange(edit, kBeforeThird).verdict, kIgnored);
}

TEST(RecipeDiffTest, StagesMayBeAddedAndRemovedAtTheEnd) {
  const RecipeChange added = OneChange(
      [](Recipe& r) { r.stages.push_back(Stage("more", ObjectiveKind::kLm, "d")); }, kInSecond);
  EXPECT_EQ(added.key, "stages[4]");
  EXPECT_EQ(added.verdict, kTakesEffect);
  const RecipeChange removed = OneChange([](Recipe& r) { r.stages.pop_back(); }, kInSecond);
  EXPECT_EQ(removed.key, "stages[3]");
  EXPECT_EQ(removed.verdict, kTakesEffect);
  // All are finished; the run is taken up again.
  EXPECT_EQ(OneChange([](Recipe& r) { r.stages.push_back(Stage("more", ObjectiveKind::kLm, "d")); },
                      {.stage = 4, .stage_step = 0})
                .verdict,
            kTakesEffect);
}

TEST(RecipeDiffTest, AStageAheadMayChangeItsKind) {
  const auto edit = [](size_t stage) {
    return [stage](Recipe& recipe) { recipe.stages[stage].kind = StageKind::kSelect; };
  };
  const auto is_refused = [](const RecipeChange& change) { return change.verdict == kRefused; };
  const auto ahead = Changes(edit(2), kInSecond);
  EXPECT_FALSE(ahead.empty());
  EXPECT_TRUE(std::none_of(ahead.begin(), ahead.end(), is_refused)) << RecipeChangesText(ahead);
  const auto under_way = Changes(edit(1), kInSecond);
  ASSERT_FALSE(under_way.empty());
  EXPECT_EQ(under_way[0].key, "stages[1].kind");
  EXPECT_EQ(under_way[0].verdict, kRefused);
}

// Whether an edit is refused by a change of a stage's place.
bool IsRefusedForPlace(const Edit& edit, const RunPosition& position) {
  const auto changes = Changes(edit, position);
  return std::any_of(changes.begin(), changes.end(), [](const RecipeChange& change) {
    return change.verdict == kRefused && change.reason.find("place") != std::string::npos;
  });
}

TEST(RecipeDiffTest, StagesThatHaveBegunKeepTheirPlaces) {
  const auto remove = [](int index) {
    return [index](Recipe& recipe) { recipe.stages.erase(recipe.stages.begin() + index); };
  };
  const auto insert = [](int index) {
    return [index](Recipe& recipe) {
      recipe.stages.insert(recipe.stages.begin() + index, Stage("new", ObjectiveKind::kLm, "d"));
    };
  };
  for (const int index : {0, 1}) {
    EXPECT_TRUE(IsRefusedForPlace(remove(index), kInSecond)) << index;
    EXPECT_TRUE(IsRefusedForPlace(insert(index), kInSecond)) << index;
    EXPECT_TRUE(IsRefusedForPlace(remove(index), kBeforeThird)) << index;
    EXPECT_TRUE(IsRefusedForPlace(insert(index), kBeforeThird)) << index;
  }
  EXPECT_TRUE(IsRefusedForPlace([](Recipe& r) { std::swap(r.stages[0], r.stages[3]); }, kInSecond));
  EXPECT_TRUE(IsRefusedForPlace([](Recipe& r) { r.stages.resize(1); }, kInSecond));
  for (const int index : {2, 3}) {
    EXPECT_FALSE(IsRefusedForPlace(remove(index), kBeforeThird)) << index;
    EXPECT_FALSE(IsRefusedForPlace(insert(index), kBeforeThird)) << index;
  }
}

TEST(RecipeDiffTest, TellsEveryChangeAndFailsForTheRefused) {
  const auto changes = Changes(
      [](Recipe& recipe) {
        recipe.seed = 5;
        recipe.stages[0].tokens = 2048;
        recipe.stages[1].batch_tokens = 2048;
        recipe.stages[2].sparse = true;
      },
      kInSecond);
  const std::string text = RecipeChangesText(changes);
  EXPECT_THAT(text, HasSubstr("stages[0].tokens"));
  EXPECT_THAT(text, HasSubstr("ignored"));
  EXPECT_THAT(text, HasSubstr("takes effect"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
  const absl::Status status = TellRecipeChanges(changes);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("seed: 5, the run began with 0"), HasSubstr("stages[1].batch_tokens"),
            HasSubstr("run_directory"), Not(HasSubstr("stages[0]")), Not(HasSubstr("stages[2]"))));
}

TEST(RecipeDiffTest, PassesWhereNothingIsRefused) {
  const auto changes = Changes([](Recipe& recipe) { recipe.name = "other"; }, kInSecond);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(TellRecipeChanges(changes).ok());
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("name"), HasSubstr("\"other\""), HasSubstr("takes effect")));
}

}  // namespace
}  // namespace salamander
