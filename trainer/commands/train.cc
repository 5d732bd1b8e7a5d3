#include <memory>

#include "kernels/base/status_macros.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/road.h"
#include "trainer/commands/road_plan.h"
#include "trainer/commands/road_steps.h"
#include "trainer/config/recipe.h"
#include "trainer/run/plan.h"
#include "trainer/run/training_run.h"
#include "trainer/run/workspace.h"

namespace salamander {

absl::Status RunTrain(const TrainCommand& command, Communicator& world) {
  ASSIGN_OR_RETURN(const Recipe recipe, ReadRecipe(command.recipe, command.overrides));
  RETURN_IF_ERROR(recipe.Validate(world.size()));
  // A plan is made on any machine; what a GPU would hold, where there is one.
  const bool lacks_gpu = command.plan && CudaDeviceCount() == 0;
  ASSIGN_OR_RETURN(const std::unique_ptr<DeviceSession> session,
                   OpenDevice(lacks_gpu ? DeviceChoice::kCpu : recipe.device, world,
                              {.is_deterministic = recipe.deterministic}));
  if (IsRoad(recipe)) {
    return command.plan ? PrintRoadPlan(recipe, *session, world)
                        : WalkRoad(recipe, *session, world);
  }
  if (command.plan) return PrintPlan(recipe, *session, world);
  return RunRecipe(recipe, *session, world).status();
}

}  // namespace salamander
