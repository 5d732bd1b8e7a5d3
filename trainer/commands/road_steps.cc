#include "trainer/commands/road_steps.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

#include "data/storage/file_bytes.h"

namespace salamander {

std::string RoadStep::result() const {
  return absl::StrCat(directory, kind == StageKind::kSelect ? "/keep.yaml" : "/manifest.json");
}

bool RoadStep::is_done() const {
  return kind != StageKind::kTrain && FileSize(result()).ok();
}

bool IsRoad(const Recipe& recipe) {
  return std::any_of(recipe.stages.begin(), recipe.stages.end(),
                     [](const StageConfig& stage) { return stage.kind != StageKind::kTrain; });
}

std::vector<RoadStep> RoadSteps(const Recipe& recipe) {
  std::vector<RoadStep> steps;
  for (size_t index = 0; index < recipe.stages.size(); ++index) {
    const StageConfig& stage = recipe.stages[index];
    const bool goes_on =
        !steps.empty() && stage.kind == StageKind::kTrain && steps.back().kind == StageKind::kTrain;
    if (!goes_on) {
      steps.push_back(
          {.kind = stage.kind,
           .begin = index,
           .end = index,
           .directory = absl::StrFormat("%s/steps/%02d-%s", recipe.run_directory, index,
                                        absl::StrReplaceAll(stage.name, {{"/", "_"}}))});
    }
    steps.back().end = index + 1;
  }
  return steps;
}

Recipe PartOf(const Recipe& recipe, const RoadStep& step, const std::string& model) {
  Recipe part = recipe;
  part.run_directory = step.directory;
  if (!model.empty()) part.model = {.from = model, .shape = ""};
  part.stages.assign(recipe.stages.begin() + static_cast<ptrdiff_t>(step.begin),
                     recipe.stages.begin() + static_cast<ptrdiff_t>(step.end));
  return part;
}

}  // namespace salamander
