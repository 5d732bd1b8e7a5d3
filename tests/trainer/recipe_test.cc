#include "trainer/config/recipe.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/trainer/recipe_text.h"

namespace salamander {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

Recipe Parsed(const std::string& text, const std::vector<std::string>& overrides = {}) {
  auto recipe = ParseRecipe(text, "r.yaml", overrides);
  SALAMANDER_CHECK(recipe.ok()) << Message(recipe.status());
  return *std::move(recipe);
}

TEST(RecipeTest, ReadsValuesUnitsAndDefaults) {
  const Recipe recipe = Parsed(kRecipeExample);
  ASSERT_EQ(recipe.stages.size(), 2u);
  const StageConfig& distill = recipe.stages[0];
  EXPECT_EQ(distill.kind, StageKind::kTrain);
  EXPECT_EQ(distill.objective, ObjectiveKind::kDistill);
  EXPECT_EQ(distill.train, TrainableSet::kAll);
  EXPECT_EQ(distill.sequence_length, 1024);
  EXPECT_EQ(distill.tokens, 64000);
  EXPECT_EQ(distill.batch_tokens, 8192);
  EXPECT_EQ(distill.steps(), 8);
  EXPECT_EQ(distill.sequences_per_batch(), 8);
  EXPECT_EQ(distill.learning_rate.peak, 1e-3);
  EXPECT_EQ(distill.learning_rate.final, 1e-5);
  EXPECT_EQ(distill.ScheduleInSteps().warmup_steps, 2);
  EXPECT_EQ(distill.mixture, (std::map<std::string, double>{{"recall", 1.0}, {"text", 3.0}}));
  EXPECT_EQ(distill.optimizer_state, OptimizerState::kKeep);
  const StageConfig& extend = recipe.stages[1];
  EXPECT_TRUE(extend.sparse);
  EXPECT_EQ(extend.dense_rule, DenseRule::kPerQuery);
  EXPECT_EQ(extend.optimizer_state, OptimizerState::kReset);
  EXPECT_EQ(extend.ScheduleInSteps().warmup_steps, 4);  // 100000 tokens in batches of 32768
  EXPECT_FALSE(recipe.deterministic);
  EXPECT_EQ(recipe.optimizer.beta2, 0.95);
  EXPECT_EQ(recipe.evaluation.recall_lengths, (std::vector<int64_t>{256, 1024}));
  EXPECT_EQ(recipe.data.at("recall").kind, SourceKind::kAssociativeRecall);
  EXPECT_TRUE(recipe.Validate(2).ok()) << recipe.Validate(2);
}

TEST(RecipeTest, ResolvedRecipeReadsBackIdentical) {
  const std::string name = "a \"quoted\" \\ name, \x01 and caf\xc3\xa9: # [x]";
  Recipe recipe = Parsed(kRecipeExample);
  recipe.name = name;
  recipe.deterministic = true;
  recipe.optimizer.epsilon = 1.0 / 3.0;
  recipe.data["odd: name"] = recipe.data["text"];
  const std::string text = RecipeText(recipe);
  const Recipe again = Parsed(text);
  EXPECT_EQ(again.name, name);
  EXPECT_TRUE(again.deterministic);
  EXPECT_EQ(again.optimizer.epsilon, 1.0 / 3.0);
  EXPECT_EQ(FlattenRecipe(again), FlattenRecipe(recipe));
  EXPECT_EQ(RecipeText(again), text);
  EXPECT_THAT(text, HasSubstr("recomputation: none"));  // defaults are filled in
}

TEST(RecipeTest, OverridesReplaceAndAddValues) {
  const Recipe recipe = Parsed(
      kRecipeExample, {"stages[1].peak_lr=2e-4", "seed=7", "stages[0].schedule.warmup_steps=3",
                       "evaluation.recall_lengths=[512]", "checkpoint.keep_every=100",
                       "checkpoint.every=30min", "deterministic=true"});
  EXPECT_EQ(recipe.stages[1].learning_rate.peak, 2e-4);
  EXPECT_EQ(recipe.seed, 7);
  EXPECT_TRUE(recipe.deterministic);
  EXPECT_EQ(recipe.stages[0].learning_rate.warmup_steps, 3);
  EXPECT_EQ(recipe.evaluation.recall_lengths, (std::vector<int64_t>{512}));
  EXPECT_EQ(recipe.checkpoint.keep_every, 100);
  EXPECT_EQ(recipe.checkpoint.every_seconds, 1800.0);
}

TEST(RecipeTest, AliasesAreExpanded) {
  const Recipe recipe =
      Parsed(RecipeWith("mixture: {text: 3, recall: 1}", "mixture: &m {text: 2}") +
             "# the second stage keeps its own\n");
  EXPECT_EQ(recipe.stages[0].mixture.at("text"), 2.0);
  const Recipe shared = Parsed(R"(name: a
run_directory: b
stages:
  - {name: one, objective: lm, sequence_length: 1K, tokens: 8K, batch_tokens: 4K, peak_lr: 1, mixture: &m {text: 2}}
  - {name: two, objective: lm, sequence_length: 1K, tokens: 8K, batch_tokens: 4K, peak_lr: 1, mixture: *m}
)");
  EXPECT_EQ(shared.stages[1].mixture.at("text"), 2.0);
}

struct BadText {
  std::string name;
  std::string from, to;  // an edit of the example
  std::string expected;  // of the message
  std::vector<std::string> overrides = {};
};

void PrintTo(const BadText& bad, std::ostream* out) {
  *out << bad.name;
}

class BadTextTest : public ::testing::TestWithParam<BadText> {};

TEST_P(BadTextTest, IsRefusedWithPlaceAndRemedy) {
  const BadText& bad = GetParam();
  const auto recipe = ParseRecipe(bad.from.empty() ? bad.to : RecipeWith(bad.from, bad.to),
                                  "r.yaml", bad.overrides);
  ASSERT_FALSE(recipe.ok());
  EXPECT_THAT(Message(recipe.status()), HasSubstr(bad.expected));
}

INSTANTIATE_TEST_SUITE_P(
    RecipeTest, BadTextTest,
    ::testing::Values(
        BadText{"UnknownKey",
                "teacher:", "techer:", "r.yaml:4 techer: there is no such key; expected"},
        BadText{"UnknownKeyNearest", "teacher:", "techer:", "; did you mean teacher?"},
        BadText{"UnknownNestedKey", "warmup_steps: 2", "warm_steps: 2",
                "r.yaml:18 stages[0].schedule.warm_steps: there is no such key"},
        BadText{"UnknownSection", "optimizer:\n", "optimiser:\n",
                "r.yaml:8 optimiser: there is no such key"},
        BadText{"TrainKeyInConvertStage", "objective: lm", "kind: convert",
                "stages[1].sequence_length: there is no such key; expected name, kind, convert"},
        BadText{"KeyTwice", "    peak_lr: 1e-4\n", "    peak_lr: 1e-4\n    peak_lr: 1e-5\n",
                "r.yaml:27 stages[1].peak_lr: stands twice, first on line 26; keep one"},
        BadText{"MissingKey", "    tokens: 64K\n", "",
                "r.yaml:12 stages[0].tokens: is missing; it has no default"},
        BadText{"WordForNumber", "peak_lr: 1e-4", "peak_lr: fast",
                "r.yaml:26 stages[1].peak_lr: 'fast'; expected a number"},
        BadText{"NotFinite", "peak_lr: 1e-4", "peak_lr: nan", "'nan'; expected a number"},
        BadText{"ListForNumber", "peak_lr: 1e-4", "peak_lr: [1]",
                "a list; expected a single value"},
        BadText{"NothingForNumber", "peak_lr: 1e-4",
                "peak_lr:", "r.yaml:26 stages[1].peak_lr: nothing; expected a single value"},
        BadText{"NumberForSection", "checkpoint: {every_steps: 5}", "checkpoint: 5",
                "r.yaml:33 checkpoint: a single value; expected a section of keys"},
        BadText{"ScalarForList", "recall_lengths: [256, 1K]", "recall_lengths: 256",
                "evaluation.recall_lengths: a single value; expected a list"},
        BadText{"BadListItem", "recall_lengths: [256, 1K]", "recall_lengths: [256, 1Q]",
                "evaluation.recall_lengths[1]: '1Q'; expected a whole number of tokens"},
        BadText{"UnknownUnit", "tokens: 1M", "tokens: 1G",
                "'1G'; expected a whole number of tokens, as 300M or 1.5B"},
        BadText{"BudgetUnitOnLength", "sequence_length: 4K", "sequence_length: 4B",
                "'4B'; expected a whole number of tokens, as 4096 or 4K (K = 1024)"},
        BadText{"FractionOfToken", "tokens: 1M", "tokens: 1.5", "'1.5'; expected a whole number"},
        BadText{"TooMany", "tokens: 1M", "tokens: 9000000T", "is out of range; expected at most"},
        BadText{"TooLow", "sequence_length: 4K", "sequence_length: 1",
                "stages[1].sequence_length: '1' is out of range; expected at least 2"},
        BadText{"OutOfRange", "held_out: 0.02", "held_out: 0.7",
                "r.yaml:6 data.text.held_out: '0.7' is out of range; expected 0 to 0.5"},
        BadText{
            "UnknownChoice", "objective: lm", "objective: destil",
            "stages[1].objective: 'destil'; expected align, distill, lm; did you mean distill?"},
        BadText{"BadFlag", "sparse: on", "sparse: maybe",
                "stages[1].sparse: 'maybe'; expected true or false"},
        BadText{"WeightNotANumber", "{text: 1}", "{text: much}",
                "stages[1].mixture.text: 'much'; expected a number"},
        BadText{"WeightIsAList", "{text: 1}", "{text: [1]}",
                "stages[1].mixture.text: a list; expected a number"},
        BadText{"NotYaml", "name: example", "name: [example", "is not YAML"},
        BadText{"Tagged", "name: example", "name: !!binary example", "r.yaml:1 name: the tag"},
        BadText{"ListAsKey", "name: example", "? [a]\n: b", "expected plain text"},
        BadText{"SecondDocument", "", "name: a\n---\nname: b\n", "a second document"},
        BadText{"NotASection", "", "- a\n- b\n", "r.yaml:1 a list; expected a section of keys"},
        BadText{"Empty", "", "", "name: is missing"},
        BadText{"AliasInsideItself", "", "name: &a [*a]\n", "inside its own anchor"},
        BadText{"OverrideUnknownKey",
                "name: example",
                "name: example",
                "--set stages[1].peek_lr=1 stages[1].peek_lr: there is no such key",
                {"stages[1].peek_lr=1"}},
        BadText{"OverrideWrongType",
                "name: example",
                "name: example",
                "--set seed=many seed: 'many'; expected a whole number",
                {"seed=many"}},
        BadText{"OverrideOutsideList",
                "name: example",
                "name: example",
                "--set stages[2].tokens=1M: 'stages[2]' is outside the list, which has 2 entries",
                {"stages[2].tokens=1M"}},
        BadText{"OverrideBadIndex",
                "name: example",
                "name: example",
                "has a malformed index; expected name[0]",
                {"stages[x].tokens=1M"}},
        BadText{"OverrideBelowValue",
                "name: example",
                "name: example",
                "'deep' does not name a key of a section",
                {"name.deep=1"}},
        BadText{"OverrideWithoutValue",
                "name: example",
                "name: example",
                "--set seed: expected key=value",
                {"seed"}}),
    [](const auto& test) { return test.param.name; });

TEST(RecipeTest, HugeAndDeepDocumentsAreRefused) {
  const auto refused = [](const std::string& text) {
    return Message(ParseRecipe(text, "r.yaml", {}).status());
  };
  EXPECT_THAT(refused(std::string(100000, '[')), HasSubstr("r.yaml"));
  EXPECT_THAT(refused("a: " + std::string(200, '[') + std::string(200, ']')),
              HasSubstr("too deep or too large"));
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int level = 1; level < 12; ++level) {
    bomb += absl::StrCat("a", level, ": &a", level, " [");
    for (int copy = 0; copy < 10; ++copy) bomb += absl::StrCat("*a", level - 1, ", ");
    bomb += "]\n";
  }
  EXPECT_THAT(refused(bomb), HasSubstr("too deep or too large"));
  EXPECT_THAT(refused(std::string(2 << 20, 'x')), HasSubstr("expected a configuration of at most"));
}

struct BadValue {
  std::string name;
  std::string from, to;
  std::string expected;
  int ranks = 2;
};

void PrintTo(const BadValue& bad, std::ostream* out) {
  *out << bad.name;
}

class BadValueTest : public ::testing::TestWithParam<BadValue> {};

TEST_P(BadValueTest, IsRefusedWithPlaceAndRemedy) {
  const BadValue& bad = GetParam();
  const Recipe recipe = Parsed(RecipeWith(bad.from, bad.to));
  const absl::Status status = recipe.Validate(bad.ranks);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(Message(status), AllOf(StartsWith("r.yaml:"), HasSubstr(bad.expected)));
}

INSTANTIATE_TEST_SUITE_P(
    RecipeTest, BadValueTest,
    ::testing::Values(
        BadValue{"NoModel", "model: {from: hybrid.ckpt}\n", "",
                 "r.yaml:1 model: is empty; give from: a checkpoint"},
        BadValue{"TwoModels", "{from: hybrid.ckpt}", "{from: a, shape: b}",
                 "r.yaml:3 model: has both from and shape"},
        BadValue{"UnknownSourceInMixture", "mixture: {text: 1}", "mixture: {txt: 1}",
                 "r.yaml:28 stages[1].mixture.txt: there is no such source under data; use one of "
                 "recall, text"},
        BadValue{"NegativeWeight", "mixture: {text: 1}", "mixture: {text: -1}",
                 "a weight is at least 0"},
        BadValue{"NoWeight", "mixture: {text: 1}", "mixture: {text: 0}", "every weight is 0"},
        BadValue{"NoMixture", "    mixture: {text: 1}\n", "", "stages[1].mixture: is empty"},
        BadValue{
            "BatchNotAMultiple", "batch_tokens: 32K", "batch_tokens: 33K",
            "r.yaml:24 stages[1].batch_tokens: 33792; expected a multiple of sequence_length x "
            "data ranks = 4096 x 2"},
        BadValue{
            "BatchForOtherRanks", "name: example", "name: example",
            "stages[0].batch_tokens: 8192; expected a multiple of sequence_length x data ranks "
            "= 1024 x 3",
            3},
        BadValue{"MicroBatchNotAMultiple", "micro_batch_tokens: 8K", "micro_batch_tokens: 6K",
                 "stages[1].micro_batch_tokens: 6144; expected a multiple of sequence_length=4096"},
        BadValue{"MicroBatchBeyondShare", "micro_batch_tokens: 8K", "micro_batch_tokens: 32K",
                 "expected at most a rank's share of the batch, 16384"},
        BadValue{"FinalAbovePeak", "final_lr: 1e-5", "final_lr: 1e-2",
                 "r.yaml:18 stages[0].schedule.final_lr: 0.01; expected at most peak_lr=0.001"},
        BadValue{"FinalMissing", ", final_lr: 1e-5", "", "stages[0].schedule.final_lr: is missing"},
        BadValue{"FinalOfConstant", "shape: cosine", "shape: constant",
                 "a constant rate has none; leave it out"},
        BadValue{"ExponentialToZero", "shape: linear", "shape: exponential", "never reaches 0"},
        BadValue{"LongWarmup", "warmup_steps: 2", "warmup_steps: 9",
                 "stages[0].schedule.warmup_steps: 9 steps; the stage has only 8"},
        BadValue{"WarmupTwice", "warmup_steps: 2", "warmup_steps: 2, warmup_tokens: 9K",
                 "is given beside warmup_steps; keep one"},
        BadValue{"NoTeacher", "teacher: base.ckpt\n", "",
                 "stages[0].objective: 'distill'; it needs a teacher"},
        BadValue{"AlignTrainsCandidates", "objective: distill", "objective: align",
                 "set objective: align and train: candidates together"},
        BadValue{"NoPatterns", "objective: lm", "objective: lm\n    train: matching",
                 "stages[1].train_matching: is empty"},
        BadValue{"StageNameTwice", "name: extend", "name: distill",
                 "r.yaml:20 stages[1].name: 'distill'; another stage has this name"},
        BadValue{"SampleBeyondSequence", "sample_length: 256", "sample_length: 2K",
                 "r.yaml:7 data.recall.sample_length: 2048; expected at most the "
                 "sequence_length=1024 of stages[0]"},
        BadValue{"UnknownEvaluationSource", "{every_steps: 10,", "{every_steps: 10, source: book,",
                 "evaluation.source: 'book'; there is no such source under data"},
        BadValue{"NothingHeldOut", ", held_out: 0.02", "", "no source holds documents out"},
        BadValue{"PairsOfTokens", "held_out: 0.02", "held_out: 0.02, pairs: 3",
                 "data.text.pairs: is given; it goes with kind: associative_recall"},
        BadValue{"BadGroupDecay", "learning_rate_multiplier: 0.25", "weight_decay: -0.5",
                 "optimizer.groups[0].weight_decay: -0.5"},
        BadValue{"ContextDoesNotDivide", "batch_tokens: 8K",
                 "batch_tokens: 8K\n    tensor_parallel: 2\n    context_parallel: 3",
                 "stages[0].context_parallel: 3; it does not divide the 8 ranks left after "
                 "tensor_parallel=2; use one of 1, 2, 4, 8",
                 16},
        BadValue{"SlicesDoNotDivide", "batch_tokens: 8K",
                 "batch_tokens: 8K\n    tensor_parallel: 3\n    context_parallel: 2",
                 "stages[0].sequence_length: 1024; expected a multiple of context_parallel x "
                 "tensor_parallel = 2 x 3 of stage distill",
                 6},
        BadValue{"RecomputedLayersOfNothing", "sparse: on", "recomputed_layers: [0]",
                 "stages[1].recomputed_layers: is given; it goes with recomputation: attention or "
                 "full"}),
    [](const auto& test) { return test.param.name; });

TEST(RecipeTest, StagesLayTheRanksOutAsTheRunDoesUnlessTheySay) {
  const std::string text =
      "tensor_parallel: 4\ncontext_parallel: 2\n" +
      RecipeWith("  - name: extend\n", "  - name: extend\n    context_parallel: 8\n");
  const Recipe recipe = Parsed(text);
  ASSERT_EQ(recipe.stages.size(), 2u);
  EXPECT_EQ(recipe.stages[0].tensor_parallel, 4);
  EXPECT_EQ(recipe.stages[0].context_parallel, 2);
  EXPECT_EQ(recipe.stages[1].tensor_parallel, 4);
  EXPECT_EQ(recipe.stages[1].context_parallel, 8);
  EXPECT_EQ(FlattenRecipe(Parsed(RecipeText(recipe))), FlattenRecipe(recipe));
}

TEST(RecipeTest, ConvertAndSelectStagesReadBackAndKeepTheirOrder) {
  const std::string text = RecipeWith(
      "  - name: extend\n", R"(  - {name: score, kind: select, select: {keep_fraction: 0.5}}
  - {name: drop, kind: convert, convert: {keep: selected, gate: open, sparse: {top_k: 8}}}
  - name: extend
)");
  const Recipe recipe = Parsed(text);
  ASSERT_EQ(recipe.stages.size(), 4u);
  EXPECT_EQ(recipe.stages[1].select.keep_fraction, 0.5);
  EXPECT_EQ(recipe.stages[2].convert.gate, GateInitialization::kOpen);
  EXPECT_EQ(recipe.stages[2].convert.sparse.top_k, 8);
  EXPECT_EQ(FlattenRecipe(Parsed(RecipeText(recipe))), FlattenRecipe(recipe));
  EXPECT_TRUE(recipe.Validate(2).ok()) << recipe.Validate(2);

  Recipe unordered = recipe;
  std::swap(unordered.stages[1], unordered.stages[2]);
  EXPECT_THAT(Message(unordered.Validate(2)), HasSubstr("no select stage comes before"));
  Recipe first = recipe;
  first.model = {.from = "", .shape = "shape.yaml"};
  first.stages.erase(first.stages.begin());
  EXPECT_THAT(Message(first.Validate(2)), HasSubstr("model.from: is missing"));
}

TEST(RecipeTest, MissingFileIsNamed) {
  EXPECT_THAT(Message(ReadRecipe("/nowhere/r.yaml", {}).status()), HasSubstr("/nowhere/r.yaml"));
}

TEST(ParseQuantityTest, KnowsUnits) {
  EXPECT_EQ(*ParseQuantity("4K", Unit::kLength), 4096);
  EXPECT_EQ(*ParseQuantity("0.5K", Unit::kLength), 512);
  EXPECT_EQ(*ParseQuantity("520K", Unit::kLength), 532480);
  EXPECT_EQ(*ParseQuantity("1M", Unit::kLength), 1 << 20);
  EXPECT_EQ(*ParseQuantity("300M", Unit::kBudget), 300000000);
  EXPECT_EQ(*ParseQuantity("1.5M", Unit::kBudget), 1500000);
  EXPECT_EQ(*ParseQuantity("1006.6B", Unit::kBudget), 1006600000000);
  EXPECT_EQ(*ParseQuantity("2T", Unit::kBudget), 2000000000000);
  EXPECT_EQ(*ParseQuantity("1e3", Unit::kCount), 1000);
  EXPECT_EQ(*ParseQuantity("9223372036854775807", Unit::kCount), 9223372036854775807);
  for (const char* bad : {"", "K", "4k", "4KK", "1e400", "0.3", "--1", "4K4"})
    EXPECT_FALSE(ParseQuantity(bad, Unit::kLength).ok()) << bad;
  EXPECT_FALSE(ParseQuantity("4K", Unit::kCount).ok());
  EXPECT_FALSE(ParseQuantity("2000000M", Unit::kLength).ok());
}

TEST(ParseDurationTest, KnowsUnits) {
  EXPECT_EQ(*ParseDuration("90s"), 90.0);
  EXPECT_EQ(*ParseDuration("1.5min"), 90.0);
  EXPECT_EQ(*ParseDuration("30min"), 1800.0);
  EXPECT_EQ(*ParseDuration("2h"), 7200.0);
  EXPECT_EQ(*ParseDuration("0"), 0.0);
  for (const char* bad : {"", "s", "90", "-1s", "1d", "1e300h", "nans"})
    EXPECT_FALSE(ParseDuration(bad).ok()) << bad;
}

TEST(MatchesPatternTest, StarStandsForAnyText) {
  EXPECT_TRUE(MatchesPattern("layers.3.mlp.up.weight", "layers.*.mlp.*"));
  EXPECT_TRUE(MatchesPattern("head.weight", "*"));
  EXPECT_FALSE(MatchesPattern("layers.3.mixer.up", "layers.*.mlp.*"));
  EXPECT_FALSE(MatchesPattern("head.weights", "head.weight"));
}

}  // namespace
}  // namespace salamander
