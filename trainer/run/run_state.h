// What a run is made of at a moment, and what its checkpoints hold: the model, the optimizer's
// state, and where the run is. A run that is restored goes on bit for bit. Checkpoints hold the
// fp32 masters, so that a run goes on from them on any device.
#ifndef TRAINER_RUN_RUN_STATE_H_
#define TRAINER_RUN_RUN_STATE_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

#include "model/parallel/communicator.h"
#include "trainer/config/recipe.h"
#include "trainer/run/model_file.h"
#include "trainer/run/progress.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/workspace.h"
#include "trainer/step/optimizer.h"

namespace salamander {

// What the models of a run are, without their weights.
struct RunModels {
  ModelConfig base;                    // that the recipe names or shapes, and trains
  std::optional<ModelConfig> teacher;  // that it learns from
};

// Fails where their vocabularies differ or the data's is larger.
absl::StatusOr<RunModels> ModelsOf(const Recipe& recipe, const RunData& data);

// How far the run had come that saved the checkpoint.
absl::StatusOr<RunProgress> LoadProgress(const std::string& checkpoint);

struct RunState {
  // The model the recipe names or shapes, with zero moments, on the workspace's device. Fails where
  // the data's vocabulary or tokenizer is not the model's, and where the device is too small. The
  // workspace outlives the state.
  static absl::StatusOr<std::unique_ptr<RunState>> Begin(const Recipe& recipe, const RunData& data,
                                                         const Workspace& workspace);

  // Becomes what a checkpoint of this run holds. Says each edit of the recipe since then aloud, and
  // fails for one that the run cannot go on with, or where the run began with another model.
  absl::Status Restore(const std::string& path, const Recipe& recipe);

  // Writes a checkpoint. Collective; every rank holds the same state.
  absl::Status Save(const std::string& path, const Recipe& recipe, Communicator& ranks);

  RunState(ModelWeights model, Baggage texts, std::string tokenizer_text, const Workspace& where);
  RunState(const RunState&) = delete;  // the optimizer refers to the weights' layout

  // What the model's passes read.
  const ParameterBuffer& read_weights() const {
    return rounded.has_value() ? *rounded : weights.buffer;
  }

  const Workspace& workspace;
  ModelWeights weights;  // fp32 masters; its config is the base that stages switch
  std::optional<ParameterBuffer> rounded;  // of the masters, where the device computes in less
  Baggage baggage;
  std::string tokenizer;     // the model's own, or the data's where it has none
  ModelConfig model_config;  // of the stage under way, or of the last one
  std::unique_ptr<Optimizer> optimizer;
  RunProgress progress;

 private:
  absl::Status MoveToDevice();
  absl::Status Round();
  // The tensors of a checkpoint, by the names of their groups.
  std::array<std::pair<const char*, const ParameterBuffer*>, 3> CheckpointGroups() const;
};

}  // namespace salamander

#endif  // TRAINER_RUN_RUN_STATE_H_
