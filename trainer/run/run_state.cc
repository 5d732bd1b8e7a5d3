#include "trainer/run/run_state.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/checkpoint/model_config_json.h"
#include "model/checkpoint/parameter_runs.h"
#include "trainer/config/recipe_diff.h"
#include "trainer/config/small_files.h"

namespace salamander {
namespace {

// Names of a run checkpoint's texts and tensor groups, beside the model's own.
constexpr char kBaseModelText[] = "base_model.json";
constexpr char kRecipeText[] = "recipe.yaml";
constexpr char kProgressText[] = "progress.json";
constexpr char kFirstMoment[] = "first_moment";
constexpr char kSecondMoment[] = "second_moment";

// In every checkpoint of a run.
constexpr const char* kGroups[] = {kWeightsGroup, kFirstMoment, kSecondMoment};

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

// Of a model that the recipe names.
absl::Status CheckVocabulary(const Recipe& recipe, const ModelConfig& config, const RunData& data) {
  if (config.vocabulary >= data.vocabulary()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(recipe.model.from, ": a vocabulary of ", config.vocabulary, "; the data has ",
                   data.vocabulary(), " ids, tokenise it with the model's tokenizer"));
}

absl::StatusOr<ModelConfig> ShapedConfig(const Recipe& recipe, const RunData& data) {
  ASSIGN_OR_RETURN(ModelConfig config, ReadModelShape(recipe.model.shape));
  if (config.vocabulary == 0) config.vocabulary = data.vocabulary();
  RETURN_IF_ERROR(Annotate(config.Validate(), recipe.model.shape));
  return config;
}

// The model that the run begins with.
absl::StatusOr<ModelDescription> BeginningOf(const Recipe& recipe, const RunData& data) {
  if (recipe.model.from.empty()) {
    ASSIGN_OR_RETURN(const ModelConfig config, ShapedConfig(recipe, data));
    return ModelDescription{.path = "", .config = config, .baggage = {}};
  }
  ASSIGN_OR_RETURN(ModelDescription model, DescribeModel(recipe.model.from));
  RETURN_IF_ERROR(CheckVocabulary(recipe, model.config, data));
  RETURN_IF_ERROR(Annotate(CheckTokenizer(model.baggage, data), recipe.model.from));
  return model;
}

// The model's tokenizer. Data made of ready-made ids does not know how text is cut.
std::string TokenizerText(const Baggage& baggage, const RunData& data) {
  const auto found = baggage.find(kTokenizerText);
  return found == baggage.end() || IsIdTokenizer(found->second) ? data.serialized_tokenizer()
                                                                : found->second;
}

// What each edit of the recipe since the checkpoint does; fails for those that the run cannot go on
// with.
absl::Status TellChanges(const Checkpoint& checkpoint, const Recipe& recipe,
                         const RunProgress& progress) {
  ASSIGN_OR_RETURN(const std::string text, checkpoint.Metadata(kRecipeText));
  ASSIGN_OR_RETURN(const Recipe stored,
                   ParseRecipe(text, absl::StrCat(checkpoint.path(), "/", kRecipeText), {}));
  return TellRecipeChanges(
      CompareRecipes(stored, recipe, {.stage = progress.stage, .stage_step = progress.stage_step}));
}

absl::StatusOr<RunProgress> ProgressIn(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const std::string text, checkpoint.Metadata(kProgressText));
  auto progress = ParseProgress(text);
  RETURN_IF_ERROR(Annotate(progress.status(), checkpoint.path()));
  return progress;
}

absl::Status CheckSplits(const Recipe& recipe, const RunModels& models) {
  for (size_t index = 0; index < recipe.stages.size(); ++index) {
    const auto ranks = static_cast<int>(recipe.stages[index].tensor_parallel);
    absl::Status status = CheckTensorShards(models.base, ranks);
    if (models.teacher.has_value()) status.Update(CheckTensorShards(*models.teacher, ranks));
    RETURN_IF_ERROR(
        Annotate(status, recipe.places.At(absl::StrCat("stages[", index, "].tensor_parallel"))));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RunModels> ModelsOf(const Recipe& recipe, const RunData& data) {
  RunModels models;
  ASSIGN_OR_RETURN(models.base, recipe.model.from.empty() ? ShapedConfig(recipe, data)
                                                          : LoadModelConfig(recipe.model.from));
  if (!recipe.model.from.empty()) RETURN_IF_ERROR(CheckVocabulary(recipe, models.base, data));
  if (!recipe.teacher.empty()) {
    ASSIGN_OR_RETURN(models.teacher, LoadModelConfig(recipe.teacher));
  }
  RETURN_IF_ERROR(CheckSplits(recipe, models));
  if (!models.teacher.has_value() || models.teacher->vocabulary == models.base.vocabulary)
    return models;
  return absl::InvalidArgumentError(absl::StrCat(recipe.teacher, ": the teacher's vocabulary is ",
                                                 models.teacher->vocabulary, ", the student's ",
                                                 models.base.vocabulary, "; they must be equal"));
}

std::vector<int> HolderCountsOf(const RunModels& models, int tensor_ranks) {
  const std::vector<int> counts = HolderCounts(models.base, tensor_ranks);
  if (!models.teacher.has_value()) return counts;
  const std::vector<int> of_teacher = HolderCounts(*models.teacher, tensor_ranks);
  std::vector<int> all;
  std::set_union(counts.begin(), counts.end(), of_teacher.begin(), of_teacher.end(),
                 std::back_inserter(all));
  return all;
}

absl::StatusOr<RunProgress> LoadProgress(const std::string& checkpoint) {
  ASSIGN_OR_RETURN(const Checkpoint opened, Checkpoint::Open(checkpoint));
  return ProgressIn(opened);
}

absl::StatusOr<std::unique_ptr<RunState>> RunState::Blank(const Recipe& recipe, const RunData& data,
                                                          const Workspace& workspace,
                                                          const ParallelContext& parallel) {
  ASSIGN_OR_RETURN(ModelDescription model, BeginningOf(recipe, data));
  std::string tokenizer = TokenizerText(model.baggage, data);
  auto state = std::make_unique<RunState>(model.config, std::move(model.baggage),
                                          std::move(tokenizer), workspace);
  RETURN_IF_ERROR(state->TakePlace(parallel));
  return state;
}

absl::StatusOr<std::unique_ptr<RunState>> RunState::Begin(const Recipe& recipe, const RunData& data,
                                                          const Workspace& workspace,
                                                          const ParallelContext& parallel) {
  auto state = Blank(recipe, data, workspace, parallel);
  RETURN_IF_ERROR(AgreeOnStatus(parallel.world(), state.status()));
  absl::Status filled;
  if (recipe.model.from.empty()) {
    filled = (*state)->Initialize(static_cast<uint64_t>(recipe.seed));
  } else if (const auto path = ResolveCheckpoint(recipe.model.from); path.ok()) {
    const auto checkpoint = Checkpoint::Open(*path);
    filled =
        checkpoint.ok() ? (*state)->ReadTensors(*checkpoint, kWeightsGroup) : checkpoint.status();
  } else {
    filled = path.status();
  }
  RETURN_IF_ERROR((*state)->Spread(filled));
  return state;
}

absl::Status RunState::TakePlace(const ParallelContext& place) {
  DeviceSession& session = workspace.session();
  const Communicator& tensor = place.tensor();
  const Communicator& replicas = place.replicas();
  RETURN_IF_ERROR(CheckTensorShards(base_config, tensor.size()));
  optimizer.reset();
  weights_.reset();
  parallel = &place;
  layout_.emplace(base_config, TensorShard{tensor.rank(), tensor.size()}, replicas.size());
  ASSIGN_OR_RETURN(weights_,
                   ParameterBuffer::Create(*layout_, session.activation_dtype(), session));
  ASSIGN_OR_RETURN(Optimizer created,
                   Optimizer::Create(
                       *layout_, ShardLayout(*layout_, replicas.rank(), replicas.size()), session));
  optimizer = std::make_unique<Optimizer>(std::move(created));
  return absl::OkStatus();
}

absl::Status RunState::Spread(const absl::Status& filled) {
  RETURN_IF_ERROR(AgreeOnStatus(parallel->world(), filled));
  return optimizer->SpreadMasters(workspace.execution(), *weights_, parallel);
}

TensorView RunState::View(const std::string& group, const ShardLayout::Piece& piece) const {
  if (group == kWeightsGroup) return optimizer->Masters(*weights_, piece);
  const TensorView moment =
      group == kFirstMoment ? optimizer->first_moment() : optimizer->second_moment();
  return moment.Rows(piece.shard_begin, piece.count);
}

absl::Status RunState::Initialize(uint64_t seed) {
  ASSIGN_OR_RETURN(ParameterBuffer host, ParameterBuffer::Create(*layout_, DType::kFloat32));
  InitializeWeights(base_config, *layout_, seed, host);
  for (const ShardLayout::Piece& piece : optimizer->shard().pieces()) {
    RETURN_IF_ERROR(CopyFromHost(workspace.execution(),
                                 host.Flat().Rows(piece.flat_begin, piece.count).raw(),
                                 View(kWeightsGroup, piece)));
  }
  return absl::OkStatus();
}

absl::Status RunState::ReadTensors(const Checkpoint& checkpoint, const std::string& group) {
  const ExecutionContext& execution = workspace.execution();
  const bool is_on_host = execution.device.kind == DeviceKind::kCpu;
  std::vector<float> memory;
  for (const ShardLayout::Piece& piece : optimizer->shard().pieces()) {
    const ParameterSpec& spec = layout_->specs()[piece.parameter];
    const TensorView values = View(group, piece);
    if (!is_on_host) memory.resize(static_cast<size_t>(piece.count));
    const TensorView read = is_on_host ? values : TensorView::Of(memory.data(), {piece.count});
    RETURN_IF_ERROR(ReadRun(checkpoint, TensorName(group, spec), spec, piece.begin, read));
    if (!is_on_host) RETURN_IF_ERROR(CopyFromHost(execution, memory.data(), values));
  }
  return absl::OkStatus();
}

absl::Status RunState::ReadAllTensors(const Checkpoint& checkpoint) {
  for (const char* const group : kGroups) RETURN_IF_ERROR(ReadTensors(checkpoint, group));
  return absl::OkStatus();
}

absl::Status RunState::ReadState(const std::string& path, const Recipe& recipe) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(path));
  ASSIGN_OR_RETURN(const std::string base, checkpoint.Metadata(kBaseModelText));
  ASSIGN_OR_RETURN(const ModelConfig stored_base, ModelConfigFromJson(base));
  if (stored_base != base_config) {
    return absl::FailedPreconditionError(absl::StrCat(
        path,
        ": the run began with another model than the recipe now names; use another run_directory"));
  }
  ASSIGN_OR_RETURN(const std::string model_text, checkpoint.Metadata(kModelText));
  ASSIGN_OR_RETURN(model_config, ModelConfigFromJson(model_text));
  ASSIGN_OR_RETURN(progress, ProgressIn(checkpoint));
  RETURN_IF_ERROR(TellChanges(checkpoint, recipe, progress));
  RETURN_IF_ERROR(ReadAllTensors(checkpoint));
  optimizer->set_step(progress.optimizer_step);
  return absl::OkStatus();
}

absl::Status RunState::Restore(const std::string& path, const Recipe& recipe) {
  return Spread(ReadState(path, recipe));
}

absl::Status RunState::Reshard(const ParallelContext& place, const std::string& path) {
  const int64_t step = optimizer->step();
  absl::Status status = TakePlace(place);
  if (status.ok()) {
    const auto checkpoint = Checkpoint::Open(path);
    status = checkpoint.ok() ? ReadAllTensors(*checkpoint) : checkpoint.status();
  }
  RETURN_IF_ERROR(Spread(status));
  optimizer->set_step(step);
  return absl::OkStatus();
}

std::vector<TensorPiece> RunState::Pieces() const {
  std::vector<TensorPiece> pieces;
  for (const char* const group : kGroups) {
    for (const ShardLayout::Piece& piece : optimizer->shard().pieces()) {
      const ParameterSpec& spec = layout_->specs()[piece.parameter];
      if (spec.holder != 0) continue;
      for (TensorPiece& written :
           PiecesOfRun(TensorName(group, spec), spec, piece.begin, View(group, piece)))
        pieces.push_back(std::move(written));
    }
  }
  return pieces;
}

Baggage RunState::Texts(const Recipe& recipe) const {
  RunProgress stored = progress;
  stored.optimizer_step = optimizer->step();
  Baggage texts = baggage;
  texts[kModelText] = ModelConfigToJson(model_config);
  texts[kBaseModelText] = ModelConfigToJson(base_config);
  texts[kTokenizerText] = tokenizer;
  texts[kRecipeText] = RecipeText(recipe);
  texts[kProgressText] = ProgressText(stored);
  return texts;
}

absl::Status RunState::Save(const std::string& path, const Recipe& recipe) {
  return WriteCheckpoint(path, Pieces(), Texts(recipe), parallel->world(), workspace.execution());
}

}  // namespace salamander
