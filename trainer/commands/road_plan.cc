#include "trainer/commands/road_plan.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/status_macros.h"
#include "model/conversion/transfer.h"
#include "trainer/commands/conversion_steps.h"
#include "trainer/config/small_files.h"
#include "trainer/report/table.h"
#include "trainer/run/memory_plan.h"
#include "trainer/run/model_file.h"
#include "trainer/run/plan.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/stage_model.h"
#include "trainer/run/workspace.h"

namespace salamander {
namespace {

// As many layers as a selection that is still to come will keep.
std::vector<int64_t> StandIns(const SelectionConfig& select, int64_t layers) {
  if (!select.layers.empty()) return select.layers;
  const int64_t count = std::min(KeptCount(select, layers), layers);
  std::vector<int64_t> kept;
  for (int64_t index = 0; index < count; ++index) kept.push_back(index * layers / count);
  return kept;
}

// Goes down the road without doing anything.
class Forecast {
 public:
  explicit Forecast(const Recipe& recipe) : recipe_(recipe), steps_(RoadSteps(recipe)) {}

  absl::StatusOr<std::vector<PlannedStep>> Walk();

 private:
  absl::StatusOr<RunModels> ModelsAt(const Recipe& part);
  absl::StatusOr<ModelConfig> TeacherConfig() const;
  absl::StatusOr<ModelConfig> Converted(const RoadStep& step);
  absl::StatusOr<std::vector<int64_t>> Kept(const ConvertStageConfig& convert, int64_t layers);

  const Recipe& recipe_;
  const std::vector<RoadStep> steps_;
  std::map<std::string, ModelConfig> configs_;  // of steps so far, by their folders
  std::string at_;                              // the folder that holds the model so far
  const RoadStep* selection_ = nullptr;         // the last select stage
};

absl::StatusOr<RunModels> Forecast::ModelsAt(const Recipe& part) {
  ASSIGN_OR_RETURN(const RunData data, RunData::Open(part));
  if (at_.empty()) return ModelsOf(part, data);
  RunModels models{.base = configs_.at(at_), .teacher = std::nullopt};
  if (recipe_.teacher.empty()) return models;
  ASSIGN_OR_RETURN(models.teacher, TeacherConfig());
  return models;
}

// Where it is not there yet, it may be what an earlier step will leave, in its folder.
absl::StatusOr<ModelConfig> Forecast::TeacherConfig() const {
  auto there = LoadModelConfig(recipe_.teacher);
  if (there.ok()) return there;
  const auto place = std::filesystem::path(recipe_.teacher).lexically_normal();
  for (const auto& [folder, config] : configs_) {
    const auto step = std::filesystem::path(folder).lexically_normal();
    if (std::mismatch(step.begin(), step.end(), place.begin(), place.end()).first == step.end())
      return config;
  }
  return there;
}

absl::StatusOr<std::vector<int64_t>> Forecast::Kept(const ConvertStageConfig& convert,
                                                    int64_t layers) {
  std::string list = convert.keep;
  if (list == kSelectedLayers) {
    if (!selection_->is_done()) return StandIns(recipe_.stages[selection_->begin].select, layers);
    list = selection_->result();
  }
  ASSIGN_OR_RETURN(KeptLayers kept, ReadKeptLayers(list));
  return std::move(kept.layers);
}

absl::StatusOr<ModelConfig> Forecast::Converted(const RoadStep& step) {
  if (step.is_done()) return LoadModelConfig(step.directory);
  ModelConfig from;
  if (at_.empty()) {
    ASSIGN_OR_RETURN(from, LoadModelConfig(recipe_.model.from));
  } else {
    from = configs_.at(at_);
  }
  const ConvertStageConfig& convert = recipe_.stages[step.begin].convert;
  if (convert.keep.empty()) return CandidateConfig(from);
  ASSIGN_OR_RETURN(const std::vector<int64_t> kept, Kept(convert, from.layer_count()));
  return HybridConfig(
      from, kept, {.rope_in_kept_layers = convert.rope_in_kept_layers, .sparse = convert.sparse});
}

absl::StatusOr<std::vector<PlannedStep>> Forecast::Walk() {
  std::vector<PlannedStep> planned;
  for (const RoadStep& step : steps_) {
    switch (step.kind) {
      case StageKind::kSelect:
        selection_ = &step;
        continue;
      case StageKind::kConvert: {
        const auto converted = Converted(step);
        RETURN_IF_ERROR(Annotate(converted.status(), step.directory));
        configs_[step.directory] = *converted;
        break;
      }
      case StageKind::kTrain: {
        Recipe part = PartOf(recipe_, step, at_);
        ASSIGN_OR_RETURN(RunModels models, ModelsAt(part));
        ASSIGN_OR_RETURN(configs_[step.directory],
                         StageModelConfig(models.base, part.stages.back()));
        planned.push_back({step, std::move(part), std::move(models)});
        break;
      }
    }
    at_ = step.directory;
  }
  return planned;
}

// The first of the step's stages that is not finished.
int64_t StageUnderWay(const PlannedStep& planned) {
  const auto checkpoint = ResolveCheckpoint(planned.step.directory);
  if (!checkpoint.ok()) return 0;
  const auto progress = LoadProgress(*checkpoint);
  return progress.ok() ? progress->stage : 0;
}

std::string StepsText(const Recipe& recipe) {
  constexpr const char* kKindNames[] = {"train", "convert", "select"};
  Table table({"folder", "kind", "stages", "tokens", "steps", "done"});
  for (const RoadStep& step : RoadSteps(recipe)) {
    int64_t tokens = 0, optimizer_steps = 0;
    std::vector<std::string> names;
    for (size_t index = step.begin; index < step.end; ++index) {
      const StageConfig& stage = recipe.stages[index];
      names.push_back(stage.name);
      if (stage.kind != StageKind::kTrain) continue;
      tokens += stage.tokens;
      optimizer_steps += stage.steps();
    }
    table.AddRow({step.directory, kKindNames[static_cast<int>(step.kind)],
                  absl::StrJoin(names, ", "), absl::StrCat(tokens), absl::StrCat(optimizer_steps),
                  step.is_done() ? "yes" : ""});
  }
  return table.Text();
}

absl::StatusOr<std::string> RoadText(const Recipe& recipe, int ranks, DeviceSession& session) {
  std::string text = StepsText(recipe);
  ASSIGN_OR_RETURN(const std::vector<PlannedStep> planned, PlanTrainSteps(recipe));
  for (const PlannedStep& step : planned) {
    const auto plan = PlanText(step.recipe, step.models, ranks, session);
    RETURN_IF_ERROR(Annotate(plan.status(), step.step.directory));
    absl::StrAppend(&text, "\n", step.step.directory, "\n", *plan);
  }
  return text;
}

}  // namespace

absl::StatusOr<std::vector<PlannedStep>> PlanTrainSteps(const Recipe& recipe) {
  return Forecast(recipe).Walk();
}

absl::Status PrintRoadPlan(const Recipe& recipe, DeviceSession& session, Communicator& world) {
  const auto text = RoadText(recipe, world.size(), session);
  RETURN_IF_ERROR(AgreeOnStatus(world, text.status()));
  if (world.rank() == 0) std::cout << *text;
  return absl::OkStatus();
}

absl::Status CheckRoadFits(const Recipe& recipe, int ranks, DeviceSession& session) {
  if (session.device().kind == DeviceKind::kCpu) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t share, ShareOfDevice(session));
  ASSIGN_OR_RETURN(const std::vector<PlannedStep> planned, PlanTrainSteps(recipe));
  for (const PlannedStep& step : planned) {
    const int64_t stage = StageUnderWay(step);
    if (stage >= static_cast<int64_t>(step.recipe.stages.size())) continue;
    const auto plan = PlanMemory(step.recipe, step.models, stage, ranks, session);
    RETURN_IF_ERROR(Annotate(plan.status(), step.step.directory));
    RETURN_IF_ERROR(Annotate(CheckFits(*plan, share, session.name()), step.step.directory));
  }
  return absl::OkStatus();
}

}  // namespace salamander
