// What the steps of a road will be, before any of them is there. A step's model is read where it is
// done, and else follows from the one before it and what a conversion makes of that. Which layers a
// selection will keep is not known beforehand; their number is, and memory and operations hang on
// no more.
#ifndef TRAINER_COMMANDS_ROAD_PLAN_H_
#define TRAINER_COMMANDS_ROAD_PLAN_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "kernels/device.h"
#include "model/parallel/communicator.h"
#include "trainer/commands/road_steps.h"
#include "trainer/config/recipe.h"
#include "trainer/run/run_state.h"

namespace salamander {

// A train step as the run that it will be.
struct PlannedStep {
  RoadStep step;
  Recipe recipe;
  RunModels models;
};

// The train steps in order. Fails where a conversion does not fit the model it would meet.
absl::StatusOr<std::vector<PlannedStep>> PlanTrainSteps(const Recipe& recipe);

// Prints the steps, which of them are done, and the plan of each that trains (trainer/run/plan.h).
absl::Status PrintRoadPlan(const Recipe& recipe, DeviceSession& session, Communicator& world);

// Fails, naming the step, where one that is not finished will not fit a rank's share of the device.
// On the CPU nothing is known, and nothing fails.
absl::Status CheckRoadFits(const Recipe& recipe, int ranks, DeviceSession& session);

}  // namespace salamander

#endif  // TRAINER_COMMANDS_ROAD_PLAN_H_
