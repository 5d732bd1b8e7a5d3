// A training recipe in YAML. One that is accepted can be validated, written and read back.

#include "tests/fuzz/fuzz_target.h"
#include "trainer/config/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto recipe = salamander::ParseRecipe(salamander::TextOf(data, size), "fuzz.yaml", {});
  if (!recipe.ok()) {
    salamander::CheckRefusal(recipe.status());
    return 0;
  }
  const absl::Status valid = recipe->Validate(2);
  if (!valid.ok()) salamander::CheckRefusal(valid);
  const std::string text = salamander::RecipeText(*recipe);
  const auto again = salamander::ParseRecipe(text, "written.yaml", {});
  SALAMANDER_CHECK(again.ok()) << again.status().ToString() << "\n" << text;
  SALAMANDER_CHECK(salamander::RecipeText(*again) == text) << "written twice, two texts:\n" << text;
  return 0;
}
