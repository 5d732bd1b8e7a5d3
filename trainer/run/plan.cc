#include "trainer/run/plan.h"

#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "trainer/report/table.h"
#include "trainer/run/run_state.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/stage_model.h"
#include "trainer/run/workspace.h"

namespace salamander {

absl::Status PrintPlan(const Recipe& recipe, Communicator& world) {
  ASSIGN_OR_RETURN(const RunData data, RunData::Open(recipe));
  ASSIGN_OR_RETURN(const std::unique_ptr<DeviceSession> host, DeviceSession::Open({}));
  const Workspace workspace(*host);
  ASSIGN_OR_RETURN(const std::unique_ptr<RunState> state, RunState::Begin(recipe, data, workspace));
  const ModelWeights& weights = state->weights;
  Table table({"stage", "objective", "length", "tokens", "steps", "trains", "peak_lr", "sparse"});
  constexpr const char* kObjectiveNames[] = {"align", "distill", "lm"};
  for (const StageConfig& stage : recipe.stages) {
    RETURN_IF_ERROR(StageModelConfig(weights.config, stage).status());
    int64_t trained = 0;
    for (const ParameterSpec& spec : weights.layout.specs()) {
      trained += PolicyFor(stage, recipe.optimizer, spec).is_trainable ? spec.size() : 0;
    }
    table.AddRow({stage.name, kObjectiveNames[static_cast<int>(stage.objective)],
                  absl::StrCat(stage.sequence_length), absl::StrCat(stage.tokens),
                  absl::StrCat(stage.steps()), absl::StrCat(trained),
                  Short(stage.learning_rate.peak), stage.sparse ? "on" : "off"});
  }
  if (world.rank() != 0) return absl::OkStatus();
  const int64_t state_bytes = 4 * weights.buffer.Flat().bytes();
  std::cout << table.Text() << weights.layout.parameter_count()
            << " parameters; weights, gradients and moments take " << state_bytes / (1 << 20)
            << " MiB a rank, activations come on top\n";
  return absl::OkStatus();
}

}  // namespace salamander
