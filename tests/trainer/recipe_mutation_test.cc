// Damaged YAML is answered with a status, whatever the damage: no crash, no exception, no hang.
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

#include "tests/support/random_tensor.h"
#include "tests/trainer/recipe_text.h"
#include "trainer/config/recipe.h"
#include "trainer/config/recipe_diff.h"

namespace salamander {
namespace {

// What mutations put in: YAML's own marks, and values that are wrong nearly everywhere.
constexpr const char* kPieces[] = {"{",           "}",       "[",
                                   "]",           ":",       ": ",
                                   "- ",          "\n",      "\n  ",
                                   "\t",          "#",       "\"",
                                   "'",           "&a ",     "*a",
                                   "!!map",       "? ",      "---\n",
                                   "...\n",       "|\n",     ">-\n",
                                   "%YAML 1.2\n", "<<: *a",  "~",
                                   "null",        "true",    "-1",
                                   "1e308",       "1e-310",  "9e18",
                                   "1T",          "4K",      "0.3",
                                   ".nan",        ".inf",    "\\",
                                   "\xff",        "\xc3",    "\xef\xbb\xbf",
                                   "\x01",        "stages",  "train",
                                   "select",      "convert", "4611686018427387904"};

std::string Mutated(std::string text, SplitMix& random) {
  const int64_t edits = random.Integer(1, 4);
  for (int64_t edit = 0; edit < edits; ++edit) {
    const auto at = static_cast<size_t>(random.Integer(0, static_cast<int64_t>(text.size())));
    const auto count = static_cast<size_t>(random.Integer(0, 12));
    switch (random.Integer(0, 3)) {
      case 0:
        text.insert(at, kPieces[random.Integer(0, std::size(kPieces) - 1)]);
        break;
      case 1:
        text.erase(at, count);
        break;
      case 2:
        text.insert(
            at,
            text.substr(static_cast<size_t>(random.Integer(0, static_cast<int64_t>(text.size()))),
                        count * 8));
        break;
      default:
        if (at < text.size()) text[at] = static_cast<char>(random.Integer(0, 255));
    }
  }
  return text;
}

std::string SalaRecipe() {
  std::ifstream file(SALAMANDER_SOURCE_DIR "/configs/recipes/minicpm_sala.yaml");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(RecipeMutationTest, DamagedRecipesAreAnsweredWithAStatus) {
  SplitMix random(1);
  int64_t readable = 0;
  for (const std::string& base : {std::string(kRecipeExample), SalaRecipe()}) {
    const auto whole = ParseRecipe(base, "r.yaml", {});
    ASSERT_TRUE(whole.ok()) << whole.status();
    for (int trial = 0; trial < 400; ++trial) {
      const std::string text = Mutated(base, random);
      SCOPED_TRACE(text);
      const auto recipe = ParseRecipe(text, "r.yaml", {});
      if (!recipe.ok()) {
        EXPECT_FALSE(recipe.status().message().empty());
        continue;
      }
      // What can be read can be checked, compared and stored.
      ++readable;
      static_cast<void>(recipe->Validate(3).ok());
      static_cast<void>(CompareRecipes(*whole, *recipe, {.stage = 1, .stage_step = 2}));
      const std::string stored = RecipeText(*recipe);
      const auto again = ParseRecipe(stored, "stored", {});
      ASSERT_TRUE(again.ok()) << again.status() << "\n" << stored;
      EXPECT_EQ(RecipeText(*again), stored);
    }
  }
  EXPECT_GT(readable, 50);  // mutations reach past the parser
}

TEST(RecipeMutationTest, DamagedOverridesAreAnsweredWithAStatus) {
  SplitMix random(2);
  const std::string overrides[] = {"stages[1].peak_lr=1e-4", "data.text.path=other",
                                   "stages[0].mixture={text: 1}", "optimizer.groups=[]"};
  for (int trial = 0; trial < 800; ++trial) {
    const std::string assignment = Mutated(overrides[trial % 4], random);
    SCOPED_TRACE(assignment);
    const auto recipe = ParseRecipe(kRecipeExample, "r.yaml", {assignment});
    EXPECT_EQ(recipe.ok(), recipe.status().message().empty());
  }
}

TEST(RecipeMutationTest, TheLargestNumbersOverflowNothing) {
  for (const char* key :
       {"sequence_length", "tokens", "batch_tokens", "micro_batch_tokens", "schedule.warmup_steps",
        "schedule.warmup_tokens", "dense_length", "context_parallel", "tensor_parallel"}) {
    for (const char* value : {"9223372036854775807", "1000000T", "1000000M", "1099511627776"}) {
      for (const int ranks : {1, 4, 1024}) {
        const auto recipe =
            ParseRecipe(kRecipeExample, "r.yaml", {absl::StrCat("stages[1].", key, "=", value)});
        if (recipe.ok()) static_cast<void>(recipe->Validate(ranks).ok());
      }
    }
  }
}

}  // namespace
}  // namespace salamander
