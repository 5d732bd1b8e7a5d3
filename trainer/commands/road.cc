#include "trainer/commands/road.h"

#include <array>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "data/storage/atomic_path.h"
#include "data/storage/file_bytes.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "trainer/commands/conversion_steps.h"
#include "trainer/commands/road_plan.h"
#include "trainer/commands/road_steps.h"
#include "trainer/config/recipe_diff.h"
#include "trainer/run/training_run.h"

namespace salamander {
namespace {

class Road {
 public:
  Road(const Recipe& recipe, DeviceSession& session, Communicator& world)
      : recipe_(recipe),
        session_(session),
        world_(world),
        steps_(RoadSteps(recipe)),
        model_(recipe.model.from) {}

  absl::Status Walk();

 private:
  absl::Status PrepareDirectory() const;
  absl::Status TellChanges() const;
  absl::StatusOr<bool> AgreeIsDone(const RoadStep& step);
  absl::Status Convert(const RoadStep& step);
  absl::Status Select(const RoadStep& step);
  absl::StatusOr<RunEnd> Train(const RoadStep& step);

  std::string RecipePath() const { return absl::StrCat(recipe_.run_directory, "/recipe.yaml"); }

  // The source whose documents measure what is not trained: evaluation's, else the first with
  // held-out documents.
  const SourceConfig* HeldOutSource() const {
    for (const auto& [name, source] : recipe_.data) {
      const std::string& wanted = recipe_.evaluation.source;
      if (wanted.empty() ? source.kind == SourceKind::kTokens && source.held_out > 0
                         : name == wanted) {
        return &source;
      }
    }
    return nullptr;
  }

  const Recipe& recipe_;
  DeviceSession& session_;
  Communicator& world_;
  std::vector<RoadStep> steps_;
  std::string model_;     // that the next step begins with
  std::string selected_;  // keep.yaml of the last select stage
};

// A convert or select stage that is done stays as it is, whatever the recipe now says of it.
absl::Status Road::TellChanges() const {
  const auto text = ReadFileBytes(RecipePath(), int64_t{1} << 20);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  ASSIGN_OR_RETURN(const Recipe stored, ParseRecipe(*text, RecipePath(), {}));
  std::vector<RecipeChange> told;
  for (const RoadStep& step : steps_) {
    if (!step.is_done()) continue;
    const auto index = static_cast<int64_t>(step.begin);
    for (RecipeChange& change :
         CompareRecipes(stored, recipe_, {.stage = index + 1, .stage_step = 0})) {
      if (absl::StartsWith(change.key, absl::StrCat("stages[", index, "]")))
        told.push_back(std::move(change));
    }
  }
  return TellRecipeChanges(told);
}

absl::Status Road::PrepareDirectory() const {
  RETURN_IF_ERROR(TellChanges());
  if (world_.rank() != 0) return absl::OkStatus();
  RETURN_IF_ERROR(CreateDirectories(absl::StrCat(recipe_.run_directory, "/steps")));
  for (const RoadStep& step : steps_) {
    if (step.kind == StageKind::kSelect) RETURN_IF_ERROR(CreateDirectories(step.directory));
  }
  return WriteFileAtomically(RecipePath(), RecipeText(recipe_));
}

absl::StatusOr<bool> Road::AgreeIsDone(const RoadStep& step) {
  std::array<int64_t, 1> is_done = {step.is_done() ? 1 : 0};
  RETURN_IF_ERROR(world_.AllReduceMax(absl::MakeSpan(is_done)));
  return is_done[0] != 0;
}

absl::Status Road::Convert(const RoadStep& step) {
  const ConvertStageConfig& convert = recipe_.stages[step.begin].convert;
  const SourceConfig* const source = HeldOutSource();
  RETURN_IF_ERROR(
      ConvertCheckpoint({.from = model_,
                         .out = step.directory,
                         .keep = convert.keep == kSelectedLayers ? selected_ : convert.keep,
                         .options = {.gate = convert.gate,
                                     .rope_in_kept_layers = convert.rope_in_kept_layers,
                                     .sparse = convert.sparse,
                                     .seed = static_cast<uint64_t>(recipe_.seed)},
                         .data = source == nullptr ? "" : source->path},
                        session_, world_));
  return absl::OkStatus();
}

absl::Status Road::Select(const RoadStep& step) {
  SelectionConfig select = recipe_.stages[step.begin].select;
  if (select.scores.empty() && select.candidates.empty()) select.candidates = model_;
  if (const SourceConfig* const source = HeldOutSource();
      select.scores.empty() && select.data.empty() && source != nullptr) {
    select.data = source->path;
    select.held_out = source->held_out;
  }
  return SelectInto(select, recipe_.places.At(absl::StrCat("stages[", step.begin, "].select")),
                    step.result(), session_, world_);
}

absl::StatusOr<RunEnd> Road::Train(const RoadStep& step) {
  const Recipe part = PartOf(recipe_, step, model_);
  const LogPosition outside = GetLogPosition();
  const auto end = RunRecipe(part, session_, world_);
  SetLogPosition(outside);
  return end;
}

absl::Status Road::Walk() {
  RETURN_IF_ERROR(AgreeOnStatus(world_, CheckRoadFits(recipe_, world_.size(), session_)));
  RETURN_IF_ERROR(AgreeOnStatus(world_, PrepareDirectory()));
  for (const RoadStep& step : steps_) {
    ASSIGN_OR_RETURN(const bool is_done, AgreeIsDone(step));
    LogInfo(absl::StrCat("step ", step.directory, is_done ? " is done" : ""));
    switch (step.kind) {
      case StageKind::kTrain: {
        ASSIGN_OR_RETURN(const RunEnd end, Train(step));
        if (end == RunEnd::kStopped) return absl::OkStatus();
        model_ = step.directory;
        break;
      }
      case StageKind::kConvert:
        if (!is_done) RETURN_IF_ERROR(Convert(step));
        model_ = step.directory;
        break;
      case StageKind::kSelect:
        if (!is_done) RETURN_IF_ERROR(Select(step));
        selected_ = step.result();
        break;
    }
  }
  LogInfo(absl::StrCat("the road ends at ", model_));
  return absl::OkStatus();
}

}  // namespace

absl::Status WalkRoad(const Recipe& recipe, DeviceSession& session, Communicator& world) {
  return Road(recipe, session, world).Walk();
}

}  // namespace salamander
