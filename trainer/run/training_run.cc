#include "trainer/run/training_run.h"

#include <chrono>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/storage/atomic_path.h"
#include "data/storage/file_bytes.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "model/parallel/parallel_context.h"
#include "trainer/ceilings/ceilings.h"
#include "trainer/evaluate/recall_report.h"
#include "trainer/report/metrics_log.h"
#include "trainer/report/progress_display.h"
#include "trainer/report/table.h"
#include "trainer/run/background_save.h"
#include "trainer/run/device_model.h"
#include "trainer/run/learning_rate.h"
#include "trainer/run/memory_plan.h"
#include "trainer/run/model_file.h"
#include "trainer/run/rank_times.h"
#include "trainer/run/run_state.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/stage_model.h"
#include "trainer/run/stop_signal.h"
#include "trainer/run/workspace.h"
#include "trainer/step/train_step.h"

namespace salamander {
namespace {

// Steps in a row whose loss or gradient was not finite before the run gives up.
constexpr int kMostSkippedInARow = 10;

std::string CheckpointDirectoryOf(const Recipe& recipe) {
  return absl::StrCat(recipe.run_directory, "/checkpoints");
}

// The one to go on from, as the first rank sees it; empty where there is none yet. A folder that
// cannot be listed is not an empty one: the run would begin again.
absl::StatusOr<std::string> LastCheckpoint(const Recipe& recipe, Communicator& world) {
  std::string last;
  absl::Status status;
  if (world.rank() == 0) {
    const auto checkpoints = ListCheckpoints(CheckpointDirectoryOf(recipe));
    if (!absl::IsNotFound(checkpoints.status())) status = checkpoints.status();
    if (checkpoints.ok() && !checkpoints->empty()) last = checkpoints->back();
  }
  RETURN_IF_ERROR(AgreeOnStatus(world, status));
  ASSIGN_OR_RETURN(const std::vector<std::string> seen, world.AllGather(last));
  return seen.front();
}

// The recipe, and in place of its models the checkpoints that all ranks read them from.
absl::StatusOr<Recipe> WithCheckpoints(Recipe recipe, Communicator& world) {
  for (std::string* const model : {&recipe.model.from, &recipe.teacher}) {
    if (!model->empty()) {
      ASSIGN_OR_RETURN(*model, ResolveCheckpoint(*model, world));
    }
  }
  return recipe;
}

class TrainingRun {
 public:
  // What a run stands on: its device, its ranks, where it goes on from, and what it will hold of
  // the device's memory.
  struct Place {
    DeviceSession& session;
    Communicator& world;
    Recipe sources;               // WithCheckpoints
    std::string last_checkpoint;  // empty: from the start
    RunModels models;
    std::optional<MemoryPlan> memory;  // not known beforehand on the CPU
  };
  static std::unique_ptr<TrainingRun> Open(const Recipe& recipe, RunData data, Place place);
  absl::StatusOr<RunEnd> Run();

 private:
  struct Stage;  // what lives as long as one stage

  TrainingRun(const Recipe& recipe, RunData data, Place place)
      : recipe_(recipe),
        world_(place.world),
        sources_(std::move(place.sources)),
        last_checkpoint_(std::move(place.last_checkpoint)),
        models_(std::move(place.models)),
        memory_(std::move(place.memory)),
        workspace_(place.session),
        data_(std::move(data)) {}

  std::string CheckpointDirectory() const { return CheckpointDirectoryOf(recipe_); }
  bool is_first() const { return world_.rank() == 0; }
  bool has_stage_left() const {
    return state_->progress.stage < static_cast<int64_t>(recipe_.stages.size());
  }
  const StageConfig& stage_config() const {
    return recipe_.stages[static_cast<size_t>(state_->progress.stage)];
  }
  const ExecutionContext& execution() const { return workspace_.execution(); }

  absl::Status Resume();
  absl::Status TakeState();
  absl::Status TakeBuffers();
  absl::Status CheckStages() const;
  absl::Status PrepareDirectory();
  absl::Status SaveCheckpoint();
  absl::StatusOr<bool> CanCopy(int64_t bytes);
  absl::Status FinishSave();
  absl::Status PollSave();
  absl::Status Saved(const std::string& path);

  absl::StatusOr<std::unique_ptr<Stage>> BeginStage();
  absl::StatusOr<MeshShape> ShapeAt(int64_t stage) const;
  absl::StatusOr<std::unique_ptr<ParallelContext>> MakeParallel(const MeshShape& shape);
  absl::Status LayOut();
  absl::StatusOr<bool> RunStage(Stage& stage);  // false: asked to stop
  absl::Status RunStep(Stage& stage);
  absl::Status LogStep(Stage& stage, const StepResult& result, double learning_rate,
                       double seconds);
  absl::Status Evaluate(Stage& stage, bool at_end);
  absl::StatusOr<PackedStream> HeldOutShare(const Stage& stage, int64_t index);
  absl::StatusOr<double> HeldOutObjective(const Stage& stage);
  absl::StatusOr<bool> IsSaveLate();
  absl::Status EndStage(Stage& stage);
  absl::Status LogMemory(const Stage& stage);
  absl::Status CheckArena() const;
  absl::Status WriteMetrics(const std::string& kind, const Metrics& metrics);

  Recipe recipe_;
  Communicator& world_;
  Recipe sources_;  // WithCheckpoints of it
  std::string last_checkpoint_;
  RunModels models_;
  std::optional<MemoryPlan> memory_;
  Workspace workspace_;
  RunData data_;
  std::unique_ptr<ParallelContext> parallel_;  // of the stage laid out last
  std::unique_ptr<RunState> state_;
  std::optional<ParameterBuffer> gradients_;
  std::optional<DeviceModel> teacher_;
  std::optional<MetricsLog> metrics_;
  StagingMemory staging_;
  std::unique_ptr<BackgroundSave> save_;  // under way; on all ranks or on none
  bool has_told_of_memory_ = false;
  RankTimes rank_times_;
  StopSignal stop_;
  int skipped_in_a_row_ = 0;
  double peak_flops_per_second_ =
      0.0;  // of a matrix product on this rank's device; 0: not measured
  std::chrono::steady_clock::time_point last_save_ = std::chrono::steady_clock::now();
};

struct TrainingRun::Stage {
  const StageConfig& config;
  Transformer model;
  std::unique_ptr<Objective> objective;
  std::unique_ptr<Replay> micro_batch;
  ModelTensors gradients;
  std::unique_ptr<SequenceMixture> sequences;
  std::unique_ptr<HeldOutSequences> held_out;
  std::unique_ptr<RecallEvaluation> recall;
  BatchShape batch;
  ProgressDisplay display;
};

std::unique_ptr<TrainingRun> TrainingRun::Open(const Recipe& recipe, RunData data, Place place) {
  return std::unique_ptr<TrainingRun>(new TrainingRun(recipe, std::move(data), std::move(place)));
}

// The layout of the stage under way comes first: every rank loads its part alone.
absl::Status TrainingRun::TakeState() {
  RunProgress progress;
  if (!last_checkpoint_.empty()) {
    const auto stored = LoadProgress(last_checkpoint_);
    RETURN_IF_ERROR(AgreeOnStatus(world_, stored.status()));
    progress = *stored;
  }
  ASSIGN_OR_RETURN(const MeshShape shape, ShapeAt(progress.stage));
  ASSIGN_OR_RETURN(parallel_, MakeParallel(shape));
  if (last_checkpoint_.empty()) {
    ASSIGN_OR_RETURN(state_, RunState::Begin(sources_, data_, workspace_, *parallel_));
  } else {
    auto blank = RunState::Blank(sources_, data_, workspace_, *parallel_);
    RETURN_IF_ERROR(AgreeOnStatus(world_, blank.status()));
    state_ = *std::move(blank);
    RETURN_IF_ERROR(state_->Restore(last_checkpoint_, recipe_));
  }
  return AgreeOnStatus(world_, TakeBuffers());
}

// What else is of the layout's shapes.
absl::Status TrainingRun::TakeBuffers() {
  DeviceSession& session = workspace_.session();
  ASSIGN_OR_RETURN(gradients_, ParameterBuffer::Create(state_->layout(), DType::kFloat32, session));
  if (sources_.teacher.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(LoadedModel teacher, LoadModel(sources_.teacher, state_->layout().shard()));
  ASSIGN_OR_RETURN(DeviceModel model, DeviceModel::Taking(std::move(teacher.weights), workspace_));
  teacher_.emplace(std::move(model));
  return absl::OkStatus();
}

absl::Status TrainingRun::PrepareDirectory() {
  if (!is_first()) return absl::OkStatus();
  RETURN_IF_ERROR(CreateDirectories(CheckpointDirectory()));
  RETURN_IF_ERROR(RemoveLeftovers(recipe_.run_directory, Leftovers::kOfDeadWriters).status());
  // The run alone writes there, on whichever machine it was before.
  RETURN_IF_ERROR(RemoveLeftovers(CheckpointDirectory(), Leftovers::kAll).status());
  RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(recipe_.run_directory, "/recipe.yaml"),
                                      RecipeText(recipe_)));
  ASSIGN_OR_RETURN(metrics_, MetricsLog::Open(absl::StrCat(recipe_.run_directory, "/metrics.jsonl"),
                                              state_->progress.global_step));
  return absl::OkStatus();
}

absl::Status TrainingRun::Resume() {
  RETURN_IF_ERROR(TakeState());
  RETURN_IF_ERROR(AgreeOnStatus(world_, CheckStages()));
  RETURN_IF_ERROR(AgreeOnStatus(world_, PrepareDirectory()));
  if (!last_checkpoint_.empty()) LogInfo(absl::StrCat("going on from ", last_checkpoint_));
  return absl::OkStatus();
}

// A stage that does not fit the model is told of now, not when the stages before it are done.
absl::Status TrainingRun::CheckStages() const {
  for (auto index = static_cast<size_t>(state_->progress.stage); index < recipe_.stages.size();
       ++index) {
    RETURN_IF_ERROR(StageModelConfig(state_->base_config, recipe_.stages[index]).status());
  }
  return absl::OkStatus();
}

// Begins one; FinishSave ends it.
absl::Status TrainingRun::SaveCheckpoint() {
  RETURN_IF_ERROR(FinishSave());
  last_save_ = std::chrono::steady_clock::now();
  const std::string path =
      absl::StrCat(CheckpointDirectory(), "/", CheckpointName(state_->progress.global_step));
  // Asked for twice at one step: what is there holds the same model and moments. It is of the same
  // moment, as when a run is stopped right after it began, or was saved in the middle of a stage
  // that the recipe now ends there: a run that goes on from it ends the stage again, to the same
  // effect.
  std::array<int64_t, 1> exists = {FileSize(absl::StrCat(path, "/manifest.json")).ok() ? 1 : 0};
  RETURN_IF_ERROR(world_.AllReduceMax(absl::MakeSpan(exists)));
  if (exists[0] != 0) return absl::OkStatus();

  const std::vector<TensorPiece> pieces = state_->Pieces();
  ASSIGN_OR_RETURN(const bool is_copied, CanCopy(StagingMemory::BytesFor(pieces)));
  if (!is_copied) {
    RETURN_IF_ERROR(state_->Save(path, recipe_));
    return Saved(path);
  }
  ASSIGN_OR_RETURN(save_, BackgroundSave::Begin(path, pieces, state_->Texts(recipe_), world_,
                                                execution(), staging_));
  return absl::OkStatus();
}

// Whether this save is written beside the steps to come, from a copy.
absl::StatusOr<bool> TrainingRun::CanCopy(int64_t bytes) {
  if (!recipe_.checkpoint.background) return false;
  ASSIGN_OR_RETURN(const bool has_memory,
                   HasMemoryForAll(std::max<int64_t>(bytes - staging_.bytes(), 0), world_));
  if (!has_memory && !has_told_of_memory_) {
    LogWarning(
        absl::StrCat("training waits for its checkpoints: the hosts have no memory for a "
                     "copy of each rank's shard, ",
                     bytes >> 20, " MiB"));
    has_told_of_memory_ = true;
  }
  return has_memory;
}

absl::Status TrainingRun::FinishSave() {
  if (save_ == nullptr) return absl::OkStatus();
  const std::unique_ptr<BackgroundSave> save = std::move(save_);
  RETURN_IF_ERROR(save->Finish(world_));
  return Saved(save->path());
}

// Between two steps.
absl::Status TrainingRun::PollSave() {
  if (save_ == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool is_written, save_->IsWritten(world_));
  return is_written ? FinishSave() : absl::OkStatus();
}

absl::Status TrainingRun::Saved(const std::string& path) {
  LogInfo(absl::StrCat("saved ", path));
  const CheckpointConfig& config = recipe_.checkpoint;
  return AgreeOnStatus(world_, is_first() ? PruneCheckpoints(CheckpointDirectory(),
                                                             config.keep_last, config.keep_every)
                                          : absl::OkStatus());
}

absl::Status TrainingRun::WriteMetrics(const std::string& kind, const Metrics& metrics) {
  return AgreeOnStatus(world_, metrics_.has_value()
                                   ? metrics_->Write(kind, state_->progress.global_step, metrics)
                                   : absl::OkStatus());
}

absl::StatusOr<std::unique_ptr<TrainingRun::Stage>> TrainingRun::BeginStage() {
  const StageConfig& config = stage_config();
  ASSIGN_OR_RETURN(state_->model_config, StageModelConfig(state_->base_config, config));
  const auto policy = [&](const ParameterSpec& spec) {
    return PolicyFor(config, recipe_.optimizer, spec);
  };
  const OptimizerConfig& optimizer = recipe_.optimizer;
  state_->optimizer->Configure(
      {optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.clip_norm}, policy);
  if (state_->progress.stage_step == 0 && config.optimizer_state == OptimizerState::kReset)
    RETURN_IF_ERROR(state_->optimizer->Reset(execution()));

  const int64_t micro_tokens = std::max(config.micro_batch_tokens, config.sequence_length);
  std::unique_ptr<Stage> stage(new Stage{
      .config = config,
      .model = Transformer(state_->model_config,
                           BindTensors(state_->base_config, state_->layout(), state_->weights())),
      .objective = nullptr,
      .micro_batch = workspace_.session().NewReplay(),
      .gradients =
          BindTrainable(state_->base_config, state_->layout(), *gradients_,
                        [&](const ParameterSpec& spec) { return policy(spec).is_trainable; }),
      .sequences = nullptr,
      .held_out = nullptr,
      .recall = nullptr,
      .batch = {.sequences = config.sequences_per_batch(),
                .sequences_per_micro = micro_tokens / config.sequence_length},
      .display = ProgressDisplay(config.name, is_first(), recipe_.log_every_steps)});
  stage->objective =
      ObjectiveFor(config, stage->model, teacher_.has_value() ? &teacher_->transformer() : nullptr,
                   parallel_.get());
  ASSIGN_OR_RETURN(stage->sequences, data_.StageSequences(config, state_->progress.stage_start));
  const int64_t held_out_length = recipe_.evaluation.sequence_length;
  if (recipe_.evaluation.sequences > 0) {
    ASSIGN_OR_RETURN(stage->held_out,
                     data_.HeldOut(held_out_length > 0 ? held_out_length : config.sequence_length));
  }
  ASSIGN_OR_RETURN(stage->recall, data_.Recall());
  return stage;
}

// How stage `stage` lays the ranks out; after the last one, as that did.
absl::StatusOr<MeshShape> TrainingRun::ShapeAt(int64_t stage) const {
  const auto last = static_cast<int64_t>(recipe_.stages.size()) - 1;
  return MeshOf(recipe_.stages[static_cast<size_t>(std::min(stage, last))], world_.size());
}

absl::StatusOr<std::unique_ptr<ParallelContext>> TrainingRun::MakeParallel(const MeshShape& shape) {
  ASSIGN_OR_RETURN(
      ParallelContext parallel,
      ParallelContext::Create(world_, shape, execution(), HolderCountsOf(models_, shape.tensor)));
  if (shape.ranks() > 1) {
    LogInfo(absl::StrCat("ranks: data ", shape.data, " x context ", shape.context, " x tensor ",
                         shape.tensor, "; gradients of ", parallel.replicas().size(),
                         " are summed by ", parallel.replicas().transport()));
  }
  return std::make_unique<ParallelContext>(std::move(parallel));
}

// Divides the ranks as the stage asks. Where that is another way than before, weights and moments
// go through the checkpoint that the stage before ended with, and all that a rank holds is taken
// anew.
absl::Status TrainingRun::LayOut() {
  ASSIGN_OR_RETURN(const MeshShape shape, ShapeAt(state_->progress.stage));
  if (parallel_->shape() == shape) return absl::OkStatus();
  RETURN_IF_ERROR(FinishSave());
  workspace_.ReleaseArena();
  gradients_.reset();
  teacher_.reset();
  ASSIGN_OR_RETURN(auto next, MakeParallel(shape));
  const std::string path =
      absl::StrCat(CheckpointDirectory(), "/", CheckpointName(state_->progress.global_step));
  RETURN_IF_ERROR(state_->Reshard(*next, path));
  parallel_ = std::move(next);
  RETURN_IF_ERROR(AgreeOnStatus(world_, TakeBuffers()));
  RETURN_IF_ERROR(workspace_.ReserveArena(world_));
  return AgreeOnStatus(world_, CheckArena());
}

absl::Status TrainingRun::RunStep(Stage& stage) {
  SetLogPosition({.rank = GetLogPosition().rank,
                  .stage = static_cast<int>(state_->progress.stage),
                  .step = state_->progress.global_step + 1});
  const double learning_rate = LearningRateAt(stage.config.ScheduleInSteps(),
                                              state_->progress.stage_step, stage.config.steps());
  const auto start = std::chrono::steady_clock::now();
  const StepResources resources{.execution = execution(),
                                .parallel = *parallel_,
                                .weights = state_->weights(),
                                .gradients = *gradients_,
                                .gradient_views = stage.gradients,
                                .optimizer = *state_->optimizer,
                                .micro_batch = *stage.micro_batch};
  const auto sequence_at = [&](int64_t n) { return stage.sequences->Sequence(n); };
  ASSIGN_OR_RETURN(const StepResult result,
                   RunTrainStep(resources, *stage.objective, sequence_at,
                                state_->progress.stage_step * stage.batch.sequences, stage.batch,
                                learning_rate));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ++state_->progress.stage_step;
  ++state_->progress.global_step;
  state_->progress.tokens += stage.config.batch_tokens;
  skipped_in_a_row_ = result.is_finite ? 0 : skipped_in_a_row_ + 1;
  state_->progress.skipped_steps += result.is_finite ? 0 : 1;
  if (skipped_in_a_row_ >= kMostSkippedInARow) {
    RETURN_IF_ERROR(FinishSave());  // on every rank: it may be the checkpoint to go on from
    return absl::DataLossError(absl::StrCat("loss or gradient was not finite for ",
                                            kMostSkippedInARow,
                                            " steps in a row; lower the learning rate and "
                                            "go on from the last checkpoint"));
  }
  return LogStep(stage, result, learning_rate, seconds);
}

absl::Status TrainingRun::LogStep(Stage& stage, const StepResult& result, double learning_rate,
                                  double seconds) {
  const double tokens_per_second = static_cast<double>(stage.config.batch_tokens) / seconds;
  stage.display.Show({.step = state_->progress.stage_step,
                      .steps = stage.config.steps(),
                      .loss = result.loss,
                      .learning_rate = learning_rate,
                      .tokens_per_second = tokens_per_second});
  if (!result.is_finite)
    LogWarning("loss or gradient is not finite; the step was skipped on every rank");
  const double flops_per_second = result.flops / seconds / world_.size();
  Metrics metrics = {{"stage", stage.config.name},
                     {"stage_step", state_->progress.stage_step},
                     {"tokens", state_->progress.tokens},
                     {"loss", result.loss},
                     {"gradient_norm", result.gradient_norm},
                     {"learning_rate", learning_rate},
                     {"skipped", int64_t{result.is_finite ? 0 : 1}},
                     {"tokens_per_second", tokens_per_second},
                     {"model_flops", result.flops},
                     {"teraflops_per_second", flops_per_second * 1e-12},
                     {"seconds", seconds}};
  if (peak_flops_per_second_ > 0)
    metrics.emplace_back("mfu", flops_per_second / peak_flops_per_second_);
  rank_times_.Add(result.own_seconds);
  if (world_.size() > 1 && state_->progress.global_step % recipe_.log_every_steps == 0) {
    ASSIGN_OR_RETURN(const std::vector<RankTime> times, rank_times_.Gather(world_));
    const Metrics slowest = RankMetrics(times);
    metrics.insert(metrics.end(), slowest.begin(), slowest.end());
    const std::string complaint = rank_times_.Complaint(times);
    if (is_first() && !complaint.empty()) LogWarning(complaint);
  }
  return WriteMetrics("step", metrics);
}

absl::StatusOr<PackedStream> TrainingRun::HeldOutShare(const Stage& stage, int64_t index) {
  ASSIGN_OR_RETURN(PackedStream sequence, stage.held_out->Sequence(index));
  return ShareOfContext(std::move(sequence), *parallel_);
}

// The stage's own loss on held-out sequences: for alignment the next token says nothing.
absl::StatusOr<double> TrainingRun::HeldOutObjective(const Stage& stage) {
  std::array<double, 2> sums = {0.0, 0.0};
  const int64_t count = std::min(recipe_.evaluation.sequences, stage.held_out->size());
  absl::Status status;
  const Communicator& data = parallel_->data();
  for (int64_t index = data.rank(); index < count && status.ok(); index += data.size()) {
    auto sequence = HeldOutShare(stage, index);
    status = sequence.status();
    if (!status.ok()) break;
    const auto loss = SumLoss(execution(), *stage.objective, absl::MakeConstSpan(&*sequence, 1));
    status = loss.status();
    if (!status.ok()) break;
    sums[0] += loss->loss;
    sums[1] += loss->row_weights;
  }
  RETURN_IF_ERROR(AgreeAfterPasses(parallel_.get(), world_, status));
  RETURN_IF_ERROR(parallel_->replicas().AllReduceSum(absl::MakeSpan(sums)));
  return sums[0] / sums[1];
}

absl::Status TrainingRun::Evaluate(Stage& stage, bool at_end) {
  if (stage.held_out == nullptr) return absl::OkStatus();
  Metrics metrics = {{"stage", stage.config.name}, {"tokens", state_->progress.tokens}};
  ASSIGN_OR_RETURN(const double objective, HeldOutObjective(stage));
  metrics.emplace_back("held_out_objective", objective);
  std::string line = absl::StrCat(stage.config.name, " held out: objective ", Short(objective));
  const Scored scored{.execution = execution(), .model = stage.model, .parallel = parallel_.get()};
  if (stage.config.objective != ObjectiveKind::kAlign) {
    const int64_t count = std::min(recipe_.evaluation.sequences, stage.held_out->size());
    ASSIGN_OR_RETURN(const TokenScores scores,
                     ScoreStreams(
                         scored, [&](int64_t index) { return HeldOutShare(stage, index); }, count,
                         ScoringRanks(*parallel_)));
    metrics.emplace_back("held_out_loss", scores.loss());
    metrics.emplace_back("held_out_accuracy", scores.accuracy());
    absl::StrAppend(&line, ", loss ", Short(scores.loss()));
  }
  if (at_end && stage.recall != nullptr && stage.config.objective != ObjectiveKind::kAlign) {
    const auto share = [&](PackedStream sample) {
      return ShareOfContext(std::move(sample), *parallel_);
    };
    ASSIGN_OR_RETURN(const std::vector<RecallRow> rows,
                     MeasureRecall(scored, *stage.recall, ScoringRanks(*parallel_), share));
    for (const RecallRow& row : rows) {
      metrics.emplace_back(absl::StrCat("recall_", row.cell.length), row.scores.accuracy());
      absl::StrAppend(&line, ", recall at ", row.cell.length, " ", Short(row.scores.accuracy()));
    }
  }
  LogInfo(line);
  return WriteMetrics("evaluation", metrics);
}

// Whether `checkpoint.every` has passed since the last save, by the first rank's clock: all ranks
// must agree.
absl::StatusOr<bool> TrainingRun::IsSaveLate() {
  if (recipe_.checkpoint.every_seconds <= 0) return false;
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - last_save_;
  std::array<int64_t, 1> is_late = {
      is_first() && since.count() >= recipe_.checkpoint.every_seconds ? 1 : 0};
  RETURN_IF_ERROR(world_.AllReduceMax(absl::MakeSpan(is_late)));
  return is_late[0] != 0;
}

absl::StatusOr<bool> TrainingRun::RunStage(Stage& stage) {
  execution().arena->ForgetPeak();
  const int64_t steps = stage.config.steps();
  const auto is_due = [&](int64_t every) {
    return every > 0 && state_->progress.global_step % every == 0 &&
           state_->progress.stage_step < steps;
  };
  while (state_->progress.stage_step < steps) {
    RETURN_IF_ERROR(RunStep(stage));
    RETURN_IF_ERROR(PollSave());
    if (is_due(recipe_.evaluation.every_steps)) RETURN_IF_ERROR(Evaluate(stage, false));
    ASSIGN_OR_RETURN(const bool stop, stop_.AnyRankAsked(world_));
    ASSIGN_OR_RETURN(const bool is_late, IsSaveLate());
    if (state_->progress.stage_step < steps &&
        (stop || is_late || is_due(recipe_.checkpoint.every_steps)))
      RETURN_IF_ERROR(SaveCheckpoint());
    if (stop && state_->progress.stage_step < steps) {
      RETURN_IF_ERROR(FinishSave());
      stage.display.Finish();
      return false;
    }
  }
  stage.display.Finish();
  return true;
}

// What the passes of the stage took of the arena, beside what was planned.
absl::Status TrainingRun::LogMemory(const Stage& stage) {
  const int64_t peak = workspace_.execution().arena->peak_bytes();
  Metrics metrics = {{"stage", stage.config.name},
                     {"tokens", state_->progress.tokens},
                     {"arena_peak_bytes", peak}};
  if (memory_.has_value()) {
    const MemoryPlan::Stage& planned = memory_->Of(stage.config.name);
    metrics.emplace_back("arena_planned_bytes", planned.arena());
    metrics.emplace_back("held_bytes", planned.held());
  }
  return WriteMetrics("memory", metrics);
}

absl::Status TrainingRun::EndStage(Stage& stage) {
  RETURN_IF_ERROR(Evaluate(stage, true));
  RETURN_IF_ERROR(LogMemory(stage));
  state_->progress.stage_start = data_.PositionsAfter(stage.config, *stage.sequences,
                                                      stage.config.steps() * stage.batch.sequences,
                                                      state_->progress.stage_start);
  ++state_->progress.stage;
  state_->progress.stage_step = 0;
  return SaveCheckpoint();
}

// What was planned has to fit what is left, now that all else is there.
absl::Status TrainingRun::CheckArena() const {
  if (!memory_.has_value() || !has_stage_left()) return absl::OkStatus();
  return CheckFits(*memory_,
                   memory_->Of(stage_config().name).held() + execution().arena->capacity_bytes(),
                   workspace_.session().name());
}

absl::StatusOr<RunEnd> TrainingRun::Run() {
  RETURN_IF_ERROR(Resume());
  // The arena takes what weights, state and communicators leave of the device.
  RETURN_IF_ERROR(workspace_.ReserveArena(world_));
  RETURN_IF_ERROR(AgreeOnStatus(world_, CheckArena()));
  if (workspace_.session().device().kind == DeviceKind::kCuda) {
    const auto peak = MeasureProductRate(workspace_.session(), execution());
    RETURN_IF_ERROR(AgreeOnStatus(world_, peak.status()));
    peak_flops_per_second_ = *peak;
  }
  while (has_stage_left()) {
    RETURN_IF_ERROR(LayOut());
    auto stage = BeginStage();
    RETURN_IF_ERROR(AgreeOnStatus(world_, stage.status()));
    ASSIGN_OR_RETURN(const bool is_done, RunStage(**stage));
    if (!is_done) {
      LogInfo("stopped as asked; the same command goes on from here");
      return RunEnd::kStopped;
    }
    RETURN_IF_ERROR(EndStage(**stage));
  }
  RETURN_IF_ERROR(FinishSave());
  LogInfo(absl::StrCat("done: ", state_->progress.tokens, " tokens in ",
                       state_->progress.global_step, " steps, ", recipe_.run_directory));
  // Asked to stop in the last step: nothing is left of this run, but of the road it is part of.
  ASSIGN_OR_RETURN(const bool stop, stop_.AnyRankAsked(world_));
  return stop ? RunEnd::kStopped : RunEnd::kFinished;
}

// Whether, on a GPU, the models and the passes still to come fit its memory.
absl::StatusOr<std::optional<MemoryPlan>> PlanRun(const Recipe& recipe, const RunModels& models,
                                                  const std::string& last_checkpoint, int ranks,
                                                  DeviceSession& session) {
  if (session.device().kind == DeviceKind::kCpu) return std::nullopt;
  RunProgress progress;
  if (!last_checkpoint.empty()) {
    ASSIGN_OR_RETURN(progress, LoadProgress(last_checkpoint));
  }
  ASSIGN_OR_RETURN(MemoryPlan plan, PlanMemory(recipe, models, progress.stage, ranks, session));
  ASSIGN_OR_RETURN(const int64_t share, ShareOfDevice(session));
  RETURN_IF_ERROR(CheckFits(plan, share, session.name()));
  return plan;
}

}  // namespace

absl::StatusOr<RunEnd> RunRecipe(const Recipe& recipe, DeviceSession& session,
                                 Communicator& world) {
  auto data = RunData::Open(recipe);
  RETURN_IF_ERROR(AgreeOnStatus(world, data.status()));
  ASSIGN_OR_RETURN(const std::string last, LastCheckpoint(recipe, world));
  ASSIGN_OR_RETURN(Recipe sources, WithCheckpoints(recipe, world));
  auto models = ModelsOf(sources, *data);
  RETURN_IF_ERROR(AgreeOnStatus(world, models.status()));
  // Every rank has seen that the run fits before one takes memory.
  auto memory = PlanRun(recipe, *models, last, world.size(), session);
  RETURN_IF_ERROR(AgreeOnStatus(world, memory.status()));
  return TrainingRun::Open(
             recipe, *std::move(data),
             {session, world, std::move(sources), last, *std::move(models), *std::move(memory)})
      ->Run();
}

}  // namespace salamander
