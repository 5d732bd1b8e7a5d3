// What a recipe would do, before it does it.
#ifndef TRAINER_RUN_PLAN_H_
#define TRAINER_RUN_PLAN_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "kernels/device.h"
#include "model/parallel/communicator.h"
#include "trainer/config/recipe.h"
#include "trainer/run/run_state.h"

namespace salamander {

// For each stage, steps, tokens, what trains and the operations of a step by what spends them; then
// the memory of one of `ranks` ranks by category. On a GPU the memory of the passes is planned; on
// the CPU, where ops compute as they are called, it is not known beforehand.
absl::StatusOr<std::string> PlanText(const Recipe& recipe, const RunModels& models, int ranks,
                                     DeviceSession& session);

// Prints it. Collective.
absl::Status PrintPlan(const Recipe& recipe, DeviceSession& session, Communicator& world);

}  // namespace salamander

#endif  // TRAINER_RUN_PLAN_H_
