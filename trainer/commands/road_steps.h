// The steps of a recipe that converts and selects as well as trains. Each convert or select stage,
// and each unbroken row of train stages, is a step with a folder under the run's directory, named
// by its first stage:
//   steps/00-candidates   a checkpoint
//   steps/01-align        a run (trainer/run/training_run.h)
//   steps/02-select       keep.yaml and the score table
#ifndef TRAINER_COMMANDS_ROAD_STEPS_H_
#define TRAINER_COMMANDS_ROAD_STEPS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "trainer/config/recipe.h"

namespace salamander {

// Stages [begin, end) of the recipe: one that converts or selects, or all that train in a row.
struct RoadStep {
  StageKind kind = StageKind::kTrain;
  size_t begin = 0, end = 0;
  std::string directory;

  // What is there once the step is done. Of a train step only its run knows.
  std::string result() const;
  bool is_done() const;
};

// Whether a recipe has stages that do not train.
bool IsRoad(const Recipe& recipe);

std::vector<RoadStep> RoadSteps(const Recipe& recipe);

// The recipe of a train step's run, which begins with `model`; empty: with the recipe's.
Recipe PartOf(const Recipe& recipe, const RoadStep& step, const std::string& model);

}  // namespace salamander

#endif  // TRAINER_COMMANDS_ROAD_STEPS_H_
