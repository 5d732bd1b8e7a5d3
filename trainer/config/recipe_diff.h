// A recipe edited between stop and resume, compared with the one the run's checkpoint holds, key by
// key. Each change takes effect, is ignored, or is refused, by what the key does and where the run
// is: what belongs to finished stages is past, what belongs to stages not yet begun is free, and
// the stage under way keeps whatever its data cursor and its objective rest on.
#ifndef TRAINER_CONFIG_RECIPE_DIFF_H_
#define TRAINER_CONFIG_RECIPE_DIFF_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "trainer/config/recipe.h"

namespace salamander {

// A stage is under way once it has made a step.
struct RunPosition {
  int64_t stage = 0;       // entry of the stored recipe's list; their number once all are finished
  int64_t stage_step = 0;  // optimizer steps done in it
};

enum class ChangeVerdict { kTakesEffect, kIgnored, kRefused };

struct RecipeChange {
  std::string key;  // "stages[1].tokens"; "stages[3]" for one added or removed as a whole
  std::string stored, edited;  // as in the resolved recipe; "-" where there is none
  ChangeVerdict verdict = ChangeVerdict::kTakesEffect;
  std::string reason;
};

// In the order of the stored recipe, then what the edited one adds.
std::vector<RecipeChange> CompareRecipes(const Recipe& stored, const Recipe& edited,
                                         const RunPosition& position);

// A table, one line a change.
std::string RecipeChangesText(absl::Span<const RecipeChange> changes);

// Logs the table. Fails where a change is refused, naming each such key and what to do.
absl::Status TellRecipeChanges(absl::Span<const RecipeChange> changes);

}  // namespace salamander

#endif  // TRAINER_CONFIG_RECIPE_DIFF_H_
