#include "trainer/run/plan.h"

#include <algorithm>
#include <iostream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "kernels/base/status_macros.h"
#include "model/flops.h"
#include "model/parameters.h"
#include "trainer/report/table.h"
#include "trainer/run/memory_plan.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/stage_model.h"
#include "trainer/run/workspace.h"

namespace salamander {
namespace {

std::string Mebibytes(int64_t bytes) {
  return absl::StrFormat("%.1f", static_cast<double>(bytes) / (1 << 20));
}

std::string Tera(double operations) {
  return Short(operations * 1e-12);
}

absl::StatusOr<std::string> StagesText(const Recipe& recipe, const ModelConfig& base, int ranks) {
  const ParameterLayout layout(base);
  Table table({"stage", "objective", "length", "tokens", "steps", "trains", "peak_lr", "sparse",
               "data x context x tensor"});
  constexpr const char* kObjectiveNames[] = {"align", "distill", "lm"};
  for (const StageConfig& stage : recipe.stages) {
    RETURN_IF_ERROR(StageModelConfig(base, stage).status());
    ASSIGN_OR_RETURN(const MeshShape mesh, MeshOf(stage, ranks));
    int64_t trained = 0;
    for (const ParameterSpec& spec : layout.specs()) {
      trained += PolicyFor(stage, recipe.optimizer, spec).is_trainable ? spec.size() : 0;
    }
    table.AddRow({stage.name, kObjectiveNames[static_cast<int>(stage.objective)],
                  absl::StrCat(stage.sequence_length), absl::StrCat(stage.tokens),
                  absl::StrCat(stage.steps()), absl::StrCat(trained),
                  Short(stage.learning_rate.peak), stage.sparse ? "on" : "off",
                  absl::StrCat(mesh.data, " x ", mesh.context, " x ", mesh.tensor)});
  }
  return table.Text();
}

// Of the forward over a batch of sequences that are one document each.
absl::StatusOr<std::string> OperationsText(const Recipe& recipe, const ModelConfig& base) {
  Table table({"TFLOP a step, model forward", "projections", "mlp", "head", "dense attention",
               "sparse attention", "block selection", "lightning", "all"});
  for (const StageConfig& stage : recipe.stages) {
    ASSIGN_OR_RETURN(const ModelConfig config, StageModelConfig(base, stage));
    const Segment sequence{.query_count = stage.sequence_length};
    const ModelFlops flops = ForwardFlops(config, absl::MakeConstSpan(&sequence, 1));
    const auto batch = static_cast<double>(stage.sequences_per_batch());
    std::vector<std::string> row = {stage.name};
    for (const double part :
         {flops.projections, flops.mlp, flops.head, flops.dense_attention, flops.sparse_attention,
          flops.block_selection, flops.lightning, flops.total()}) {
      row.push_back(Tera(part * batch));
    }
    table.AddRow(std::move(row));
  }
  return table.Text();
}

std::string MemoryText(const MemoryPlan& plan) {
  Table table({"MiB a rank", "masters", "moments", "gradients", "weights", "teacher", "activations",
               "scratch", "evaluation", "all"});
  for (const MemoryPlan::Stage& stage : plan.stages) {
    table.AddRow({stage.name, Mebibytes(stage.masters), Mebibytes(stage.moments),
                  Mebibytes(stage.gradients), Mebibytes(stage.weights), Mebibytes(stage.teacher),
                  Mebibytes(stage.activations), Mebibytes(stage.training - stage.activations),
                  Mebibytes(stage.evaluation), Mebibytes(stage.total())});
  }
  return table.Text();
}

// Masters, which passes read as well, and gradients whole; moments of the rank's shard.
absl::StatusOr<int64_t> HostStateBytes(const Recipe& recipe, const RunModels& models, int ranks) {
  int64_t most = 0;
  for (const StageConfig& stage : recipe.stages) {
    ASSIGN_OR_RETURN(const MeshShape shape, MeshOf(stage, ranks));
    RETURN_IF_ERROR(CheckTensorShards(models.base, shape.tensor));
    const int replicas = shape.data * shape.context;
    const int64_t size = ParameterLayout(models.base, {0, shape.tensor}, replicas).total_size();
    most = std::max(most, 8 * size + 8 * size / replicas);
  }
  return most;
}

absl::StatusOr<std::string> DeviceText(const Recipe& recipe, const RunModels& models, int ranks,
                                       DeviceSession& session) {
  if (session.device().kind == DeviceKind::kCpu) {
    ASSIGN_OR_RETURN(const int64_t state_bytes, HostStateBytes(recipe, models, ranks));
    return absl::StrCat(
        "masters, gradients and moments take ", Mebibytes(state_bytes),
        " MiB a rank, activations come on top (they are planned where there is a GPU)\n");
  }
  ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(recipe, models, 0, ranks, session));
  ASSIGN_OR_RETURN(const int64_t share, ShareOfDevice(session));
  const absl::Status fits = CheckFits(plan, share, session.name());
  return absl::StrCat(MemoryText(plan), session.name(), " has ", Mebibytes(share), " MiB a rank",
                      fits.ok() ? "\n" : absl::StrCat("; ", fits.message(), "\n"));
}

absl::StatusOr<std::string> PlanOf(const Recipe& recipe, int ranks, DeviceSession& session) {
  ASSIGN_OR_RETURN(const RunData data, RunData::Open(recipe));
  ASSIGN_OR_RETURN(const RunModels models, ModelsOf(recipe, data));
  return PlanText(recipe, models, ranks, session);
}

}  // namespace

absl::StatusOr<std::string> PlanText(const Recipe& recipe, const RunModels& models, int ranks,
                                     DeviceSession& session) {
  ASSIGN_OR_RETURN(const std::string stages, StagesText(recipe, models.base, ranks));
  ASSIGN_OR_RETURN(const std::string operations, OperationsText(recipe, models.base));
  ASSIGN_OR_RETURN(const std::string device, DeviceText(recipe, models, ranks, session));
  return absl::StrCat(stages, "\n", operations, "\n", device,
                      ParameterLayout(models.base).parameter_count(), " parameters\n");
}

absl::Status PrintPlan(const Recipe& recipe, DeviceSession& session, Communicator& world) {
  const auto text = PlanOf(recipe, world.size(), session);
  RETURN_IF_ERROR(AgreeOnStatus(world, text.status()));
  if (world.rank() == 0) std::cout << *text;
  return absl::OkStatus();
}

}  // namespace salamander
