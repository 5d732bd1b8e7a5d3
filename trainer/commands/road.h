// A recipe that converts and selects as well as trains, walked by one command: the steps of
// road_steps.h in order. What is there is complete, so the same command goes on where the last one
// stopped. Each step begins with the model the one before left; data and optimizer state begin
// anew.
#ifndef TRAINER_COMMANDS_ROAD_H_
#define TRAINER_COMMANDS_ROAD_H_

#include "absl/status/status.h"

#include "kernels/device.h"
#include "model/parallel/communicator.h"
#include "trainer/config/recipe.h"

namespace salamander {

// Walks what is left. Returns OK at the end of the road, or where a signal asked to stop. Fails
// before the first step where a later one will not fit the device. Collective. Requires: a
// validated recipe.
absl::Status WalkRoad(const Recipe& recipe, DeviceSession& session, Communicator& world);

}  // namespace salamander

#endif  // TRAINER_COMMANDS_ROAD_H_
