// What a run is made of at a moment, and what its checkpoints hold: the model, the optimizer's
// state, and where the run is. A run that is restored goes on bit for bit.
#ifndef TRAINER_RUN_RUN_STATE_H_
#define TRAINER_RUN_RUN_STATE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "model/parallel/communicator.h"
#include "trainer/config/recipe.h"
#include "trainer/run/model_file.h"
#include "trainer/run/progress.h"
#include "trainer/run/stage_data.h"
#include "trainer/step/optimizer.h"

namespace salamander {

struct RunState {
  // The model the recipe names or shapes, with zero moments. Fails where the data's vocabulary or
  // tokenizer is not the model's.
  static absl::StatusOr<std::unique_ptr<RunState>> Begin(const Recipe& recipe, const RunData& data);

  // Becomes what a checkpoint of this run holds. Says each edit of the recipe since then aloud, and
  // fails for one that the run cannot go on with, or where the run began with another model.
  absl::Status Restore(const std::string& path, const Recipe& recipe);

  // Writes a checkpoint. Collective; every rank holds the same state.
  absl::Status Save(const std::string& path, const Recipe& recipe, Communicator& ranks);

  RunState(ModelWeights model, Baggage texts, std::string tokenizer_text);
  RunState(const RunState&) = delete;  // the optimizer refers to the weights' layout

  ModelWeights weights;  // its config is the base that stages switch
  Baggage baggage;
  std::string tokenizer;     // the model's own, or the data's where it has none
  ModelConfig model_config;  // of the stage under way, or of the last one
  std::unique_ptr<Optimizer> optimizer;
  RunProgress progress;
};

}  // namespace salamander

#endif  // TRAINER_RUN_RUN_STATE_H_
