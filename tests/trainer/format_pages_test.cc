// The pages under docs/formats/ name every key there is, and no other.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "trainer/config/recipe.h"
#include "trainer/config/small_files.h"

namespace salamander {
namespace {

using Keys = std::set<std::string>;
using Fields = std::vector<std::pair<std::string, std::string>>;

// The keys in code spans of the first cells of a page's tables: "| `beta1`, `beta2` | ...".
Keys KeysOfPage(const std::string& name) {
  std::ifstream page(std::filesystem::path(SALAMANDER_SOURCE_DIR) / "docs/formats" / name);
  EXPECT_TRUE(page.is_open()) << name;
  const std::regex first_cell(R"(^\|\s*(`[^|]*`)\s*\|)");
  const std::regex code(R"(`([^`]+)`)");
  Keys keys;
  for (std::string line; std::getline(page, line);) {
    std::smatch cell;
    if (!std::regex_search(line, cell, first_cell)) continue;
    const std::string text = cell[1];
    for (std::sregex_iterator key(text.begin(), text.end(), code), end; key != end; ++key)
      keys.insert((*key)[1]);
  }
  return keys;
}

// A path as the recipe's page has it: "stages[1].schedule.shape" is "schedule.shape".
std::string KeyOnPage(const std::string& path) {
  std::string key = std::regex_replace(
      path, std::regex(R"(^(stages\[\d+\]|data\.[^.]+|optimizer|evaluation|checkpoint)\.)"), "");
  key = std::regex_replace(key, std::regex(R"(^convert\.sparse\.)"), "");
  if (key.rfind("select.", 0) == 0) return "select";
  return std::regex_replace(key, std::regex(R"(\[\d+\])"), "[]");
}

TEST(FormatPagesTest, RecipePageNamesEveryKey) {
  Recipe recipe;
  recipe.data["text"] = {};
  recipe.optimizer.groups = {{}};
  recipe.stages.resize(3);
  recipe.stages[1].kind = StageKind::kConvert;
  recipe.stages[2].kind = StageKind::kSelect;
  Keys keys = {"groups", "convert.sparse"};  // sections that the page introduces
  for (const auto& [path, value] : FlattenRecipe(recipe)) keys.insert(KeyOnPage(path));
  EXPECT_EQ(KeysOfPage("recipe.md"), keys);
}

TEST(FormatPagesTest, SelectionPageNamesEveryKey) {
  SelectionConfig selection;
  Keys keys = {"layers", "scorer", "candidates"};  // of keep.yaml
  for (const auto& [key, value] :
       FlattenFields([&](FieldVisitor& visitor) { VisitSelection(visitor, selection); })) {
    keys.insert(key);
  }
  EXPECT_EQ(KeysOfPage("select-and-keep.md"), keys);
}

}  // namespace
}  // namespace salamander
