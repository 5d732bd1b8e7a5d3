#include "trainer/run/run_state.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/checkpoint/model_config_json.h"
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

absl::StatusOr<Beginning> BeginningOf(const Recipe& recipe, const RunData& data) {
  if (!recipe.model.from.empty()) {
    ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(recipe.model.from));
    RETURN_IF_ERROR(CheckVocabulary(recipe, loaded.weights.config, data));
    RETURN_IF_ERROR(Annotate(CheckTokenizer(loaded.baggage, data), recipe.model.from));
    return Beginning{std::move(loaded.weights), std::move(loaded.baggage)};
  }
  ASSIGN_OR_RETURN(const ModelConfig config, ShapedConfig(recipe, data));
  ASSIGN_OR_RETURN(ModelWeights weights, ModelWeights::Create(config, DType::kFloat32));
  InitializeWeights(config, weights.layout, static_cast<uint64_t>(recipe.seed), weights.buffer);
  return Beginning{std::move(weights), {}};
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

}  // namespace

absl::StatusOr<RunModels> ModelsOf(const Recipe& recipe, const RunData& data) {
  RunModels models;
  ASSIGN_OR_RETURN(models.base, recipe.model.from.empty() ? ShapedConfig(recipe, data)
                                                          : LoadModelConfig(recipe.model.from));
  if (!recipe.model.from.empty()) RETURN_IF_ERROR(CheckVocabulary(recipe, models.base, data));
  if (recipe.teacher.empty()) return models;
  ASSIGN_OR_RETURN(models.teacher, LoadModelConfig(recipe.teacher));
  if (models.teacher->vocabulary == models.base.vocabulary) return models;
  return absl::InvalidArgumentError(absl::StrCat(recipe.teacher, ": the teacher's vocabulary is ",
                                                 models.teacher->vocabulary, ", the student's ",
                                                 models.base.vocabulary, "; they must be equal"));
}

absl::StatusOr<RunProgress> LoadProgress(const std::string& checkpoint) {
  ASSIGN_OR_RETURN(const Checkpoint opened, Checkpoint::Open(checkpoint));
  return ProgressIn(opened);
}

RunState::RunState(ModelWeights model, Baggage texts, std::string tokenizer_text,
                   const Workspace& where)
    : workspace(where),
      weights(std::move(model)),
      baggage(std::move(texts)),
      tokenizer(std::move(tokenizer_text)),
      model_config(weights.config) {}

absl::StatusOr<std::unique_ptr<RunState>> RunState::Begin(const Recipe& recipe, const RunData& data,
                                                          const Workspace& workspace) {
  ASSIGN_OR_RETURN(Beginning beginning, BeginningOf(recipe, data));
  std::string tokenizer = TokenizerText(beginning.baggage, data);
  auto state = std::make_unique<RunState>(
      std::move(beginning.weights), std::move(beginning.baggage), std::move(tokenizer), workspace);
  RETURN_IF_ERROR(state->MoveToDevice());
  ASSIGN_OR_RETURN(Optimizer optimizer,
                   Optimizer::Create(state->weights.layout, workspace.session()));
  state->optimizer = std::make_unique<Optimizer>(std::move(optimizer));
  return state;
}

absl::Status RunState::MoveToDevice() {
  DeviceSession& session = workspace.session();
  if (session.device().kind == DeviceKind::kCpu) return absl::OkStatus();
  ASSIGN_OR_RETURN(ParameterBuffer masters,
                   ParameterBuffer::Create(weights.layout, DType::kFloat32, session));
  RETURN_IF_ERROR(CopyParameters(workspace.execution(), weights.buffer, masters));
  weights.buffer = std::move(masters);
  ASSIGN_OR_RETURN(rounded,
                   ParameterBuffer::Create(weights.layout, session.activation_dtype(), session));
  return Round();
}

absl::Status RunState::Round() {
  if (!rounded.has_value()) return absl::OkStatus();
  return Convert(workspace.execution(), weights.buffer.Flat(), rounded->Flat());
}

std::array<std::pair<const char*, const ParameterBuffer*>, 3> RunState::CheckpointGroups() const {
  return {std::pair(kWeightsGroup, &weights.buffer),
          std::pair(kFirstMoment, &optimizer->first_moment()),
          std::pair(kSecondMoment, &optimizer->second_moment())};
}

absl::Status RunState::Restore(const std::string& path, const Recipe& recipe) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(path));
  ASSIGN_OR_RETURN(const std::string base, checkpoint.Metadata(kBaseModelText));
  ASSIGN_OR_RETURN(const ModelConfig base_config, ModelConfigFromJson(base));
  if (base_config != weights.config) {
    return absl::FailedPreconditionError(absl::StrCat(
        path,
        ": the run began with another model than the recipe now names; use another run_directory"));
  }
  ASSIGN_OR_RETURN(const std::string model_text, checkpoint.Metadata(kModelText));
  ASSIGN_OR_RETURN(model_config, ModelConfigFromJson(model_text));
  ASSIGN_OR_RETURN(progress, ProgressIn(checkpoint));
  RETURN_IF_ERROR(TellChanges(checkpoint, recipe, progress));
  for (const auto& [group, buffer] : CheckpointGroups()) {
    RETURN_IF_ERROR(ReadGroup(checkpoint, group, weights.layout, *buffer, workspace.execution()));
  }
  optimizer->set_step(progress.optimizer_step);
  return Round();
}

absl::Status RunState::Save(const std::string& path, const Recipe& recipe, Communicator& ranks) {
  progress.optimizer_step = optimizer->step();
  std::vector<TensorPiece> pieces;
  for (const auto& [group, buffer] : CheckpointGroups()) {
    for (TensorPiece& piece : PiecesOf(group, weights.layout, *buffer))
      pieces.push_back(std::move(piece));
  }
  Baggage texts = baggage;
  texts[kModelText] = ModelConfigToJson(model_config);
  texts[kBaseModelText] = ModelConfigToJson(weights.config);
  texts[kTokenizerText] = tokenizer;
  texts[kRecipeText] = RecipeText(recipe);
  texts[kProgressText] = ProgressText(progress);
  return WriteCheckpoint(path, ShareOut(pieces, ranks.rank(), ranks.size()), texts, ranks,
                         workspace.execution());
}

}  // namespace salamander
