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
#include "model/checkpoint/model_config_json.h"
#include "model/parallel/parallel_context.h"
#include "trainer/config/recipe_diff.h"
#include "trainer/config/small_files.h"
#include "trainer/evaluate/recall_report.h"
#include "trainer/report/metrics_log.h"
#include "trainer/report/progress_display.h"
#include "trainer/report/table.h"
#include "trainer/run/learning_rate.h"
#include "trainer/run/model_file.h"
#include "trainer/run/progress.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/stage_model.h"
#include "trainer/run/step_arena.h"
#include "trainer/run/stop_signal.h"
#include "trainer/step/train_step.h"

namespace salamander {
namespace {

// Steps in a row whose loss or gradient was not finite before the run gives up.
constexpr int kMostSkippedInARow = 10;

// Names of a run checkpoint's texts and tensor groups, beside the model's own.
constexpr char kBaseModelText[] = "base_model.json";
constexpr char kRecipeText[] = "recipe.yaml";
constexpr char kProgressText[] = "progress.json";
constexpr char kWeights[] = "weights";
constexpr char kFirstMoment[] = "first_moment";
constexpr char kSecondMoment[] = "second_moment";

// The model a run begins with, and what goes along with it.
struct Beginning {
  ModelWeights weights;
  Baggage baggage;
};

// Ids of another tokenizer would pass for the model's own.
absl::Status CheckTokenizer(const Baggage& baggage, const RunData& data) {
  const auto found = baggage.find(kTokenizerText);
  const std::string& of_data = data.serialized_tokenizer();
  if (found == baggage.end() || found->second == of_data || IsIdTokenizer(found->second) ||
      IsIdTokenizer(of_data)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      "the data was made with another tokenizer than the model's; tokenise it with the "
      "tokenizer.model of the model's HuggingFace folder");
}

absl::StatusOr<Beginning> BeginningOf(const Recipe& recipe, const RunData& data) {
  if (!recipe.model.from.empty()) {
    ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(recipe.model.from));
    if (loaded.weights.config.vocabulary < data.vocabulary()) {
      return absl::InvalidArgumentError(absl::StrCat(
          recipe.model.from, ": a vocabulary of ", loaded.weights.config.vocabulary,
          "; the data has ", data.vocabulary(), " ids, tokenise it with the model's tokenizer"));
    }
    RETURN_IF_ERROR(Annotate(CheckTokenizer(loaded.baggage, data), recipe.model.from));
    return Beginning{std::move(loaded.weights), std::move(loaded.baggage)};
  }
  ASSIGN_OR_RETURN(ModelConfig config, ReadModelShape(recipe.model.shape));
  if (config.vocabulary == 0) config.vocabulary = data.vocabulary();
  RETURN_IF_ERROR(Annotate(config.Validate(), recipe.model.shape));
  ASSIGN_OR_RETURN(ModelWeights weights, ModelWeights::Create(config, DType::kFloat32));
  InitializeWeights(config, weights.layout, static_cast<uint64_t>(recipe.seed), weights.buffer);
  return Beginning{std::move(weights), {}};
}

class TrainingRun {
 public:
  static absl::StatusOr<std::unique_ptr<TrainingRun>> Open(const Recipe& recipe,
                                                           Communicator& world);
  absl::StatusOr<RunEnd> Run();

 private:
  struct Stage;  // what lives as long as one stage

  TrainingRun(const Recipe& recipe, Communicator& world, Arena arena, RunData data,
              Beginning beginning)
      : recipe_(recipe),
        world_(world),
        arena_(std::move(arena)),
        execution_{.device = {}, .stream = nullptr, .arena = &arena_},
        data_(std::move(data)),
        weights_(std::move(beginning.weights)),
        baggage_(std::move(beginning.baggage)),
        model_config_(weights_.config) {}

  std::string CheckpointDirectory() const {
    return absl::StrCat(recipe_.run_directory, "/checkpoints");
  }
  // The model's tokenizer. Data made of ready-made ids does not know how text is cut.
  const std::string& TokenizerText() const {
    const auto found = baggage_.find(kTokenizerText);
    return found == baggage_.end() || IsIdTokenizer(found->second) ? data_.serialized_tokenizer()
                                                                   : found->second;
  }
  bool is_first() const { return world_.rank() == 0; }

  absl::StatusOr<std::string> LastCheckpoint();
  absl::Status Resume();
  absl::Status CheckStages() const;
  absl::Status Restore(const std::string& path);
  absl::Status TellChanges(const Checkpoint& checkpoint) const;
  absl::Status PrepareDirectory();
  absl::Status SaveCheckpoint();

  absl::StatusOr<std::unique_ptr<Stage>> BeginStage();
  absl::Status LayOut(Stage& stage);
  absl::StatusOr<bool> RunStage(Stage& stage);  // false: asked to stop
  absl::Status RunStep(Stage& stage);
  absl::Status LogStep(Stage& stage, const StepResult& result, double learning_rate,
                       double seconds);
  absl::Status Evaluate(Stage& stage, bool at_end);
  absl::StatusOr<double> HeldOutObjective(const Stage& stage);
  absl::StatusOr<bool> IsSaveLate();
  absl::Status EndStage(Stage& stage);
  absl::Status WriteMetrics(const std::string& kind, const Metrics& metrics);

  Recipe recipe_;
  Communicator& world_;
  Arena arena_;
  ExecutionContext execution_;
  RunData data_;
  ModelWeights weights_;  // its config is the base that stages switch
  Baggage baggage_;
  ModelConfig model_config_;  // of the stage under way, or of the last one
  std::optional<ParameterBuffer> gradients_;
  std::optional<Optimizer> optimizer_;
  std::optional<LoadedModel> teacher_;
  std::optional<MetricsLog> metrics_;
  StopSignal stop_;
  RunProgress progress_;
  int skipped_in_a_row_ = 0;
  std::chrono::steady_clock::time_point last_save_ = std::chrono::steady_clock::now();
};

struct TrainingRun::Stage {
  const StageConfig& config;
  Transformer model;
  std::unique_ptr<Transformer> teacher;
  std::unique_ptr<Objective> objective;
  ModelTensors gradients;
  std::unique_ptr<SequenceMixture> sequences;
  std::unique_ptr<HeldOutSequences> held_out;
  std::unique_ptr<RecallEvaluation> recall;
  std::optional<ParallelContext> parallel;  // once all ranks have begun the stage
  BatchShape batch;
  ProgressDisplay display;
};

absl::StatusOr<std::unique_ptr<TrainingRun>> TrainingRun::Open(const Recipe& recipe,
                                                               Communicator& world) {
  ASSIGN_OR_RETURN(RunData data, RunData::Open(recipe));
  ASSIGN_OR_RETURN(Arena arena, ReserveStepArena());
  ASSIGN_OR_RETURN(Beginning beginning, BeginningOf(recipe, data));
  std::unique_ptr<TrainingRun> run(
      new TrainingRun(recipe, world, std::move(arena), std::move(data), std::move(beginning)));
  ASSIGN_OR_RETURN(run->gradients_, ParameterBuffer::Create(run->weights_.layout, DType::kFloat32));
  ASSIGN_OR_RETURN(run->optimizer_, Optimizer::Create(run->weights_.layout));
  if (!recipe.teacher.empty()) {
    ASSIGN_OR_RETURN(run->teacher_, LoadModel(recipe.teacher));
    if (run->teacher_->weights.config.vocabulary != run->weights_.config.vocabulary) {
      return absl::InvalidArgumentError(
          absl::StrCat(recipe.teacher, ": the teacher's vocabulary is ",
                       run->teacher_->weights.config.vocabulary, ", the student's ",
                       run->weights_.config.vocabulary, "; they must be equal"));
    }
  }
  return run;
}

absl::Status TrainingRun::PrepareDirectory() {
  if (!is_first()) return absl::OkStatus();
  RETURN_IF_ERROR(CreateDirectories(CheckpointDirectory()));
  for (const std::string& directory : {recipe_.run_directory, CheckpointDirectory()})
    RETURN_IF_ERROR(RemoveLeftovers(directory, Leftovers::kOfDeadWriters).status());
  RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(recipe_.run_directory, "/recipe.yaml"),
                                      RecipeText(recipe_)));
  ASSIGN_OR_RETURN(metrics_, MetricsLog::Open(absl::StrCat(recipe_.run_directory, "/metrics.jsonl"),
                                              progress_.global_step));
  return absl::OkStatus();
}

// The one to go on from, as the first rank sees it; empty where there is none yet. A folder that
// cannot be listed is not an empty one: the run would begin again.
absl::StatusOr<std::string> TrainingRun::LastCheckpoint() {
  std::string last;
  absl::Status status;
  if (is_first()) {
    const auto checkpoints = ListCheckpoints(CheckpointDirectory());
    if (!absl::IsNotFound(checkpoints.status())) status = checkpoints.status();
    if (checkpoints.ok() && !checkpoints->empty()) last = checkpoints->back();
  }
  RETURN_IF_ERROR(AgreeOnStatus(world_, status));
  ASSIGN_OR_RETURN(const std::vector<std::string> seen, world_.AllGather(last));
  return seen.front();
}

absl::Status TrainingRun::Resume() {
  ASSIGN_OR_RETURN(const std::string last, LastCheckpoint());
  if (!last.empty()) RETURN_IF_ERROR(AgreeOnStatus(world_, Restore(last)));
  RETURN_IF_ERROR(AgreeOnStatus(world_, CheckStages()));
  RETURN_IF_ERROR(AgreeOnStatus(world_, PrepareDirectory()));
  if (!last.empty()) LogInfo(absl::StrCat("going on from ", last));
  return absl::OkStatus();
}

// A stage that does not fit the model is told of now, not when the stages before it are done.
absl::Status TrainingRun::CheckStages() const {
  for (auto index = static_cast<size_t>(progress_.stage); index < recipe_.stages.size(); ++index) {
    RETURN_IF_ERROR(StageModelConfig(weights_.config, recipe_.stages[index]).status());
  }
  return absl::OkStatus();
}

absl::Status TrainingRun::Restore(const std::string& path) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(path));
  ASSIGN_OR_RETURN(const std::string base, checkpoint.Metadata(kBaseModelText));
  ASSIGN_OR_RETURN(const ModelConfig base_config, ModelConfigFromJson(base));
  if (base_config != weights_.config) {
    return absl::FailedPreconditionError(absl::StrCat(
        path,
        ": the run began with another model than the recipe now names; use another run_directory"));
  }
  ASSIGN_OR_RETURN(const std::string model, checkpoint.Metadata(kModelText));
  ASSIGN_OR_RETURN(model_config_, ModelConfigFromJson(model));
  ASSIGN_OR_RETURN(const std::string progress, checkpoint.Metadata(kProgressText));
  auto parsed = ParseProgress(progress);
  RETURN_IF_ERROR(Annotate(parsed.status(), path));
  progress_ = *std::move(parsed);
  RETURN_IF_ERROR(TellChanges(checkpoint));
  RETURN_IF_ERROR(ReadGroup(checkpoint, kWeights, weights_.layout, weights_.buffer));
  RETURN_IF_ERROR(ReadGroup(checkpoint, kFirstMoment, weights_.layout, optimizer_->first_moment()));
  RETURN_IF_ERROR(
      ReadGroup(checkpoint, kSecondMoment, weights_.layout, optimizer_->second_moment()));
  optimizer_->set_step(progress_.optimizer_step);
  return absl::OkStatus();
}

// What each edit of the recipe since the checkpoint does; fails for those that the run cannot go on
// with.
absl::Status TrainingRun::TellChanges(const Checkpoint& checkpoint) const {
  ASSIGN_OR_RETURN(const std::string text, checkpoint.Metadata(kRecipeText));
  ASSIGN_OR_RETURN(const Recipe stored,
                   ParseRecipe(text, absl::StrCat(checkpoint.path(), "/", kRecipeText), {}));
  return TellRecipeChanges(CompareRecipes(
      stored, recipe_, {.stage = progress_.stage, .stage_step = progress_.stage_step}));
}

absl::Status TrainingRun::SaveCheckpoint() {
  last_save_ = std::chrono::steady_clock::now();
  const std::string path =
      absl::StrCat(CheckpointDirectory(), "/", CheckpointName(progress_.global_step));
  // Asked for twice at one step, as when a run is stopped right after it began: what is there is
  // the same.
  std::array<int64_t, 1> exists = {FileSize(absl::StrCat(path, "/manifest.json")).ok() ? 1 : 0};
  RETURN_IF_ERROR(world_.AllReduceMax(absl::MakeSpan(exists)));
  if (exists[0] != 0) return absl::OkStatus();

  progress_.optimizer_step = optimizer_->step();
  std::vector<TensorPiece> pieces = PiecesOf(kWeights, weights_.layout, weights_.buffer);
  for (const auto& [group, buffer] : {std::pair(kFirstMoment, &optimizer_->first_moment()),
                                      std::pair(kSecondMoment, &optimizer_->second_moment())}) {
    for (TensorPiece& piece : PiecesOf(group, weights_.layout, *buffer))
      pieces.push_back(std::move(piece));
  }
  Baggage texts = baggage_;
  texts[kModelText] = ModelConfigToJson(model_config_);
  texts[kBaseModelText] = ModelConfigToJson(weights_.config);
  texts[kTokenizerText] = TokenizerText();
  texts[kRecipeText] = RecipeText(recipe_);
  texts[kProgressText] = ProgressText(progress_);
  RETURN_IF_ERROR(
      WriteCheckpoint(path, ShareOut(pieces, world_.rank(), world_.size()), texts, world_));
  LogInfo(absl::StrCat("saved ", path));
  const CheckpointConfig& config = recipe_.checkpoint;
  return AgreeOnStatus(world_, is_first() ? PruneCheckpoints(CheckpointDirectory(),
                                                             config.keep_last, config.keep_every)
                                          : absl::OkStatus());
}

absl::Status TrainingRun::WriteMetrics(const std::string& kind, const Metrics& metrics) {
  return AgreeOnStatus(world_, metrics_.has_value()
                                   ? metrics_->Write(kind, progress_.global_step, metrics)
                                   : absl::OkStatus());
}

absl::StatusOr<std::unique_ptr<TrainingRun::Stage>> TrainingRun::BeginStage() {
  const StageConfig& config = recipe_.stages[static_cast<size_t>(progress_.stage)];
  ASSIGN_OR_RETURN(model_config_, StageModelConfig(weights_.config, config));
  const auto policy = [&](const ParameterSpec& spec) {
    return PolicyFor(config, recipe_.optimizer, spec);
  };
  const OptimizerConfig& optimizer = recipe_.optimizer;
  optimizer_->Configure({optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.clip_norm},
                        policy);
  if (progress_.stage_step == 0 && config.optimizer_state == OptimizerState::kReset)
    optimizer_->Reset();

  const int64_t micro_tokens = std::max(config.micro_batch_tokens, config.sequence_length);
  std::unique_ptr<Stage> stage(new Stage{
      .config = config,
      .model = Transformer(model_config_,
                           BindTensors(weights_.config, weights_.layout, weights_.buffer)),
      .teacher = nullptr,
      .objective = nullptr,
      .gradients =
          BindTrainable(weights_.config, weights_.layout, *gradients_,
                        [&](const ParameterSpec& spec) { return policy(spec).is_trainable; }),
      .sequences = nullptr,
      .held_out = nullptr,
      .recall = nullptr,
      .parallel = std::nullopt,
      .batch = {.sequences = config.sequences_per_batch(),
                .sequences_per_micro = micro_tokens / config.sequence_length},
      .display = ProgressDisplay(config.name, is_first(), recipe_.log_every_steps)});
  if (teacher_.has_value()) {
    stage->teacher = std::make_unique<Transformer>(TransformerOf(teacher_->weights));
  }
  stage->objective = ObjectiveFor(config, stage->model, stage->teacher.get());
  ASSIGN_OR_RETURN(stage->sequences, data_.StageSequences(config, progress_.stage_start));
  const int64_t held_out_length = recipe_.evaluation.sequence_length;
  if (recipe_.evaluation.sequences > 0) {
    ASSIGN_OR_RETURN(stage->held_out,
                     data_.HeldOut(held_out_length > 0 ? held_out_length : config.sequence_length));
  }
  ASSIGN_OR_RETURN(stage->recall, data_.Recall());
  return stage;
}

// Divides the ranks as the stage asks.
absl::Status TrainingRun::LayOut(Stage& stage) {
  ASSIGN_OR_RETURN(const MeshShape shape,
                   FitMesh(world_.size(), static_cast<int>(stage.config.context_parallel),
                           static_cast<int>(stage.config.tensor_parallel)));
  ASSIGN_OR_RETURN(stage.parallel, ParallelContext::Create(world_, shape));
  return absl::OkStatus();
}

absl::Status TrainingRun::RunStep(Stage& stage) {
  SetLogPosition({.rank = GetLogPosition().rank,
                  .stage = static_cast<int>(progress_.stage),
                  .step = progress_.global_step + 1});
  const double learning_rate =
      LearningRateAt(stage.config.ScheduleInSteps(), progress_.stage_step, stage.config.steps());
  const auto start = std::chrono::steady_clock::now();
  const StepResources resources{.execution = execution_,
                                .data_ranks = stage.parallel->data(),
                                .weights = weights_.buffer,
                                .gradients = *gradients_,
                                .gradient_views = stage.gradients,
                                .optimizer = *optimizer_};
  const auto sequence_at = [&](int64_t n) { return stage.sequences->Sequence(n); };
  ASSIGN_OR_RETURN(
      const StepResult result,
      RunTrainStep(resources, *stage.objective, sequence_at,
                   progress_.stage_step * stage.batch.sequences, stage.batch, learning_rate));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ++progress_.stage_step;
  ++progress_.global_step;
  progress_.tokens += stage.config.batch_tokens;
  skipped_in_a_row_ = result.is_finite ? 0 : skipped_in_a_row_ + 1;
  progress_.skipped_steps += result.is_finite ? 0 : 1;
  if (skipped_in_a_row_ >= kMostSkippedInARow) {
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
  stage.display.Show({.step = progress_.stage_step,
                      .steps = stage.config.steps(),
                      .loss = result.loss,
                      .learning_rate = learning_rate,
                      .tokens_per_second = tokens_per_second});
  if (!result.is_finite)
    LogWarning("loss or gradient is not finite; the step was skipped on every rank");
  return WriteMetrics("step", {{"stage", stage.config.name},
                               {"stage_step", progress_.stage_step},
                               {"tokens", progress_.tokens},
                               {"loss", result.loss},
                               {"gradient_norm", result.gradient_norm},
                               {"learning_rate", learning_rate},
                               {"skipped", int64_t{result.is_finite ? 0 : 1}},
                               {"tokens_per_second", tokens_per_second},
                               {"seconds", seconds}});
}

// The stage's own loss on held-out sequences: for alignment the next token says nothing.
absl::StatusOr<double> TrainingRun::HeldOutObjective(const Stage& stage) {
  std::array<double, 2> sums = {0.0, 0.0};
  const int64_t count = std::min(recipe_.evaluation.sequences, stage.held_out->size());
  absl::Status status;
  for (int64_t index = world_.rank(); index < count && status.ok(); index += world_.size()) {
    auto sequence = stage.held_out->Sequence(index);
    status = sequence.status();
    if (!status.ok()) break;
    const auto loss = stage.objective->Accumulate({.execution = execution_, .stream = *sequence});
    status = loss.status();
    if (!status.ok()) break;
    sums[0] += *loss;
    for (const float weight : stage.objective->RowWeights(*sequence))
      sums[1] += static_cast<double>(weight);
  }
  RETURN_IF_ERROR(AgreeOnStatus(world_, status));
  RETURN_IF_ERROR(world_.AllReduceSum(absl::MakeSpan(sums)));
  return sums[0] / sums[1];
}

absl::Status TrainingRun::Evaluate(Stage& stage, bool at_end) {
  if (stage.held_out == nullptr) return absl::OkStatus();
  Metrics metrics = {{"stage", stage.config.name}, {"tokens", progress_.tokens}};
  ASSIGN_OR_RETURN(const double objective, HeldOutObjective(stage));
  metrics.emplace_back("held_out_objective", objective);
  std::string line = absl::StrCat(stage.config.name, " held out: objective ", Short(objective));
  const Scored scored{.execution = execution_, .model = stage.model};
  if (stage.config.objective != ObjectiveKind::kAlign) {
    const int64_t count = std::min(recipe_.evaluation.sequences, stage.held_out->size());
    ASSIGN_OR_RETURN(
        const TokenScores scores,
        ScoreStreams(
            scored, [&](int64_t index) { return stage.held_out->Sequence(index); }, count, world_));
    metrics.emplace_back("held_out_loss", scores.loss());
    metrics.emplace_back("held_out_accuracy", scores.accuracy());
    absl::StrAppend(&line, ", loss ", Short(scores.loss()));
  }
  if (at_end && stage.recall != nullptr && stage.config.objective != ObjectiveKind::kAlign) {
    ASSIGN_OR_RETURN(const std::vector<RecallRow> rows,
                     MeasureRecall(scored, *stage.recall, world_));
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
  const int64_t steps = stage.config.steps();
  const auto is_due = [&](int64_t every) {
    return every > 0 && progress_.global_step % every == 0 && progress_.stage_step < steps;
  };
  while (progress_.stage_step < steps) {
    RETURN_IF_ERROR(RunStep(stage));
    if (is_due(recipe_.evaluation.every_steps)) RETURN_IF_ERROR(Evaluate(stage, false));
    ASSIGN_OR_RETURN(const bool stop, stop_.AnyRankAsked(world_));
    ASSIGN_OR_RETURN(const bool is_late, IsSaveLate());
    if (progress_.stage_step < steps && (stop || is_late || is_due(recipe_.checkpoint.every_steps)))
      RETURN_IF_ERROR(SaveCheckpoint());
    if (stop && progress_.stage_step < steps) {
      stage.display.Finish();
      return false;
    }
  }
  stage.display.Finish();
  return true;
}

absl::Status TrainingRun::EndStage(Stage& stage) {
  RETURN_IF_ERROR(Evaluate(stage, true));
  progress_.stage_start =
      data_.PositionsAfter(stage.config, *stage.sequences,
                           stage.config.steps() * stage.batch.sequences, progress_.stage_start);
  ++progress_.stage;
  progress_.stage_step = 0;
  return SaveCheckpoint();
}

absl::StatusOr<RunEnd> TrainingRun::Run() {
  RETURN_IF_ERROR(Resume());
  while (progress_.stage < static_cast<int64_t>(recipe_.stages.size())) {
    auto stage = BeginStage();
    RETURN_IF_ERROR(AgreeOnStatus(world_, stage.status()));
    RETURN_IF_ERROR(LayOut(**stage));
    ASSIGN_OR_RETURN(const bool is_done, RunStage(**stage));
    if (!is_done) {
      LogInfo("stopped as asked; the same command goes on from here");
      return RunEnd::kStopped;
    }
    RETURN_IF_ERROR(EndStage(**stage));
  }
  LogInfo(absl::StrCat("done: ", progress_.tokens, " tokens in ", progress_.global_step, " steps, ",
                       recipe_.run_directory));
  // Asked to stop in the last step: nothing is left of this run, but of the road it is part of.
  ASSIGN_OR_RETURN(const bool stop, stop_.AnyRankAsked(world_));
  return stop ? RunEnd::kStopped : RunEnd::kFinished;
}

}  // namespace

absl::StatusOr<RunEnd> RunRecipe(const Recipe& recipe, Communicator& world) {
  auto run = TrainingRun::Open(recipe, world);
  RETURN_IF_ERROR(AgreeOnStatus(world, run.status()));
  return (*run)->Run();
}

absl::Status PrintPlan(const Recipe& recipe, Communicator& world) {
  ASSIGN_OR_RETURN(const RunData data, RunData::Open(recipe));
  ASSIGN_OR_RETURN(const Beginning beginning, BeginningOf(recipe, data));
  const ModelWeights& weights = beginning.weights;
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
