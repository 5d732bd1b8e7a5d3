// What a recipe would do, before it does it.
#ifndef TRAINER_RUN_PLAN_H_
#define TRAINER_RUN_PLAN_H_

#include "absl/status/status.h"

#include "model/parallel/communicator.h"
#include "trainer/config/recipe.h"

namespace salamander {

// Prints, for each stage, steps, tokens, what trains, bytes.
absl::Status PrintPlan(const Recipe& recipe, Communicator& world);

}  // namespace salamander

#endif  // TRAINER_RUN_PLAN_H_
