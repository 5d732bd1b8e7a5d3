// What a run is made of at a moment, and what its checkpoints hold: the model, the optimizer's
// state, and where the run is; of the tensors, this rank's part. A run that is restored goes on bit
// for bit. Checkpoints hold the fp32 masters and whole tensors, so that a run goes on from them on
// any device and in any layout of ranks.
#ifndef TRAINER_RUN_RUN_STATE_H_
#define TRAINER_RUN_RUN_STATE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "model/parallel/parallel_context.h"
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

// Fails where their vocabularies differ or the data's is larger, and where a stage asks for more
// tensor ranks than a model can be split among.
absl::StatusOr<RunModels> ModelsOf(const Recipe& recipe, const RunData& data);

// HolderCounts of all of them (model/parameters.h).
std::vector<int> HolderCountsOf(const RunModels& models, int tensor_ranks);

// How far the run had come that saved the checkpoint.
absl::StatusOr<RunProgress> LoadProgress(const std::string& checkpoint);

struct RunState {
  // The model the recipe names or shapes, with zero moments: this rank's part of it, on the
  // workspace's device. Fails where the data's vocabulary or tokenizer is not the model's, where
  // the model cannot be split so, and where the device is too small. Collective; workspace and
  // layout outlive the state.
  static absl::StatusOr<std::unique_ptr<RunState>> Begin(const Recipe& recipe, const RunData& data,
                                                         const Workspace& workspace,
                                                         const ParallelContext& parallel);
  // The same with zero weights, for Restore. Not collective.
  static absl::StatusOr<std::unique_ptr<RunState>> Blank(const Recipe& recipe, const RunData& data,
                                                         const Workspace& workspace,
                                                         const ParallelContext& parallel);

  // Becomes what a checkpoint of this run holds, whatever layout wrote it. Says each edit of the
  // recipe since then aloud, and fails for one that the run cannot go on with, or where the run
  // began with another model. Collective.
  absl::Status Restore(const std::string& path, const Recipe& recipe);

  // Takes the place that `parallel` gives this rank: weights and moments of another part, which
  // come from a checkpoint that holds the state as it is. The memory of the old ones is free
  // before the new is taken. Collective.
  absl::Status Reshard(const ParallelContext& parallel, const std::string& checkpoint);

  // Writes a checkpoint, each rank its shard. Collective.
  absl::Status Save(const std::string& path, const Recipe& recipe);

  // Of a checkpoint: what this rank writes, and the texts.
  std::vector<TensorPiece> Pieces() const;
  Baggage Texts(const Recipe& recipe) const;

  RunState(const ModelConfig& base, Baggage texts, std::string tokenizer_text,
           const Workspace& where)
      : workspace(where),
        base_config(base),
        baggage(std::move(texts)),
        tokenizer(std::move(tokenizer_text)),
        model_config(base) {}
  RunState(const RunState&) = delete;  // the optimizer refers to the weights' layout

  const ParameterLayout& layout() const { return *layout_; }
  // What the model's passes read: fp32 masters on the CPU, elsewhere the masters rounded.
  const ParameterBuffer& weights() const { return *weights_; }

  const Workspace& workspace;
  const ParallelContext* parallel = nullptr;
  ModelConfig base_config;  // that stages switch
  Baggage baggage;
  std::string tokenizer;     // the model's own, or the data's where it has none
  ModelConfig model_config;  // of the stage under way, or of the last one
  std::unique_ptr<Optimizer> optimizer;
  RunProgress progress;

 private:
  absl::Status TakePlace(const ParallelContext& place);
  // Fill the masters of this rank's shard; SpreadMasters comes next.
  absl::Status Initialize(uint64_t seed);
  absl::Status ReadTensors(const Checkpoint& checkpoint, const std::string& group);
  absl::Status ReadState(const std::string& path, const Recipe& recipe);
  absl::Status ReadAllTensors(const Checkpoint& checkpoint);
  // Agrees that every rank has its masters, then gives them to all.
  absl::Status Spread(const absl::Status& filled);
  // A piece of the shard, of the masters or of a moment.
  TensorView View(const std::string& group, const ShardLayout::Piece& piece) const;

  std::optional<ParameterLayout> layout_;
  std::optional<ParameterBuffer> weights_;
};

}  // namespace salamander

#endif  // TRAINER_RUN_RUN_STATE_H_
