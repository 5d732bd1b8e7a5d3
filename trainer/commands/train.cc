#include "kernels/base/status_macros.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/road.h"
#include "trainer/config/recipe.h"
#include "trainer/run/plan.h"
#include "trainer/run/training_run.h"

namespace salamander {

absl::Status RunTrain(const TrainCommand& command, Communicator& world) {
  ASSIGN_OR_RETURN(const Recipe recipe, ReadRecipe(command.recipe, command.overrides));
  RETURN_IF_ERROR(recipe.Validate(world.size()));
  if (IsRoad(recipe)) {
    if (!command.plan) return WalkRoad(recipe, world);
    if (world.rank() == 0) PrintRoad(recipe);
    return absl::OkStatus();
  }
  return command.plan ? PrintPlan(recipe, world) : RunRecipe(recipe, world).status();
}

}  // namespace salamander
