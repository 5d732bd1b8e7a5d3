// What a stage makes of the run's model: its configuration, what trains, and under which objective.
#ifndef TRAINER_RUN_STAGE_MODEL_H_
#define TRAINER_RUN_STAGE_MODEL_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"

#include "model/conversion/transfer.h"
#include "model/model_tensors.h"
#include "model/parallel/parallel_context.h"
#include "model/recomputation.h"
#include "model/transformer.h"
#include "trainer/config/recipe.h"
#include "trainer/step/objective.h"
#include "trainer/step/optimizer.h"

namespace salamander {

// The run's base configuration with the stage's switches: sparse attention and its rule, RoPE in
// kept layers. Parameters stay the same. Fails where a switch does not fit the model (sparse
// attention in a model without kept layers, say).
absl::StatusOr<ModelConfig> StageModelConfig(const ModelConfig& base, const StageConfig& stage);

// How the stage lays so many ranks out. Fails where its axes do not divide them.
absl::StatusOr<MeshShape> MeshOf(const StageConfig& stage, int ranks);

// Whether and how a parameter trains. Norms, embeddings and their like decay only where a group
// says so.
ParameterPolicy PolicyFor(const StageConfig& stage, const OptimizerConfig& optimizer,
                          const ParameterSpec& spec);

// What each layer of the model computes again; empty: nothing.
std::vector<Recomputation> RecomputationOf(const StageConfig& stage, const ModelConfig& config);

// `teacher` may be null where the objective needs none. Each model has the weights of this rank of
// `parallel`, which outlives the objective; null: one rank.
std::unique_ptr<Objective> ObjectiveFor(const StageConfig& stage, const Transformer& model,
                                        const Transformer* teacher,
                                        const ParallelContext* parallel = nullptr);

}  // namespace salamander

#endif  // TRAINER_RUN_STAGE_MODEL_H_
