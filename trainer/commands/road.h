// A recipe that converts and selects as well as trains, walked by one command. Each convert or
// select stage, and each unbroken row of train stages, is a step with a folder under the run's
// directory, named by its first stage:
//   steps/00-candidates   a checkpoint
//   steps/01-align        a run (trainer/run/training_run.h)
//   steps/02-select       keep.yaml and the score table
// What is there is complete, so the same command goes on where the last one stopped. Each step
// begins with the model the one before left; data and optimizer state begin anew.
#ifndef TRAINER_COMMANDS_ROAD_H_
#define TRAINER_COMMANDS_ROAD_H_

#include "absl/status/status.h"

#include "model/parallel/communicator.h"
#include "trainer/config/recipe.h"

namespace salamander {

// Whether a recipe has stages that do not train.
bool IsRoad(const Recipe& recipe);

// Walks what is left. Returns OK at the end of the road, or where a signal asked to stop.
// Collective. Requires: a validated recipe.
absl::Status WalkRoad(const Recipe& recipe, DeviceSession& session, Communicator& world);

// Prints the steps and which of them are done.
void PrintRoad(const Recipe& recipe);

}  // namespace salamander

#endif  // TRAINER_COMMANDS_ROAD_H_
