// A run: the stages of a recipe, one after another, from a model to its checkpoints. A run
// directory holds
//   recipe.yaml         the resolved recipe
//   metrics.jsonl       one line a logged step and evaluation
//   checkpoints/step-*  complete or absent; `train` on the directory goes on from the last one
// What is trained is a pure function of recipe, data and number of ranks: stopping and going on
// changes no bit.
#ifndef TRAINER_RUN_TRAINING_RUN_H_
#define TRAINER_RUN_TRAINING_RUN_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "kernels/device.h"
#include "model/parallel/communicator.h"
#include "trainer/config/recipe.h"

namespace salamander {

// How a run came to its end: the last stage is done, or a signal asked to stop and a checkpoint was
// saved.
enum class RunEnd { kFinished, kStopped };

// Walks what is left of the recipe, whose stages are all of kind train, on the session's device.
// Collective.
absl::StatusOr<RunEnd> RunRecipe(const Recipe& recipe, DeviceSession& session, Communicator& world);

}  // namespace salamander

#endif  // TRAINER_RUN_TRAINING_RUN_H_
