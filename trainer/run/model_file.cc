#include "trainer/run/model_file.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "data/storage/atomic_path.h"
#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/model_config_json.h"
#include "model/checkpoint/parameter_runs.h"

namespace salamander {
namespace {

absl::StatusOr<ModelConfig> ConfigOf(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const std::string text, checkpoint.Metadata(kModelText));
  auto config = ModelConfigFromJson(text);
  RETURN_IF_ERROR(
      Annotate(config.status(), absl::StrCat(checkpoint.path(), "/metadata/", kModelText)));
  return config;
}

}  // namespace

absl::StatusOr<std::string> ResolveCheckpoint(const std::string& path) {
  if (FileSize(absl::StrCat(path, "/manifest.json")).ok()) return path;
  const auto checkpoints = ListCheckpoints(absl::StrCat(path, "/checkpoints"));
  if (checkpoints.ok() && !checkpoints->empty()) return checkpoints->back();
  // A run that converts as well: the last of its steps that left a model.
  std::error_code ignored;
  std::vector<std::string> steps;
  for (const auto& step : std::filesystem::directory_iterator(path + "/steps", ignored))
    steps.push_back(step.path().string());
  std::sort(steps.rbegin(), steps.rend());
  for (const std::string& step : steps) {
    auto resolved = ResolveCheckpoint(step);
    if (resolved.ok()) return resolved;
  }
  return absl::NotFoundError(
      absl::StrCat(path,
                   ": neither a checkpoint (it has no manifest.json) nor a run with one (it has no "
                   "checkpoints/step-...); give a directory that import, convert or train wrote"));
}

absl::StatusOr<std::string> ResolveCheckpoint(const std::string& path, Communicator& ranks) {
  absl::StatusOr<std::string> mine = std::string();
  if (ranks.rank() == 0) mine = ResolveCheckpoint(path);
  RETURN_IF_ERROR(AgreeOnStatus(ranks, mine.status()));
  ASSIGN_OR_RETURN(const std::vector<std::string> seen, ranks.AllGather(*mine));
  return seen.front();
}

std::string TensorName(const std::string& group, const ParameterSpec& spec) {
  return absl::StrCat(group, "/", spec.name);
}

absl::StatusOr<ModelDescription> DescribeModel(const std::string& path) {
  ModelDescription model;
  ASSIGN_OR_RETURN(model.path, ResolveCheckpoint(path));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model.path));
  ASSIGN_OR_RETURN(model.config, ConfigOf(checkpoint));
  for (const std::string& name : checkpoint.MetadataNames()) {
    if (name != kTokenizerText && !absl::StartsWith(name, kSideFilePrefix)) continue;
    ASSIGN_OR_RETURN(model.baggage[name], checkpoint.Metadata(name));
  }
  return model;
}

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const TensorShard& shard) {
  ASSIGN_OR_RETURN(ModelDescription model, DescribeModel(path));
  RETURN_IF_ERROR(Annotate(CheckTensorShards(model.config, shard.ranks), model.path));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model.path));
  ASSIGN_OR_RETURN(ModelWeights weights,
                   ModelWeights::Create(model.config, DType::kFloat32, shard));
  for (const ParameterSpec& spec : weights.layout.specs()) {
    RETURN_IF_ERROR(ReadRun(checkpoint, TensorName(kWeightsGroup, spec), spec, 0,
                            weights.buffer.Flat().Rows(spec.offset, spec.size())));
  }
  return LoadedModel{model.path, std::move(weights), std::move(model.baggage)};
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string resolved, ResolveCheckpoint(path));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(resolved));
  return ConfigOf(checkpoint);
}

Transformer TransformerOf(const ModelWeights& weights) {
  return Transformer(weights.config, BindTensors(weights.config, weights.layout, weights.buffer));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerOf(const LoadedModel& model) {
  const auto found = model.baggage.find(kTokenizerText);
  if (found == model.baggage.end()) {
    return absl::FailedPreconditionError(absl::StrCat(
        model.path,
        ": the checkpoint carries no tokenizer; put tokenizer.model into the HuggingFace "
        "folder before import"));
  }
  return DeserializeTokenizer(found->second);
}

absl::Status CheckCanSave(const std::string& path, Communicator& ranks) {
  return AgreeOnStatus(
      ranks, ranks.rank() == 0 ? AtomicDirectory::Begin(path).status() : absl::OkStatus());
}

absl::Status SaveModel(const std::string& path, const ModelWeights& model, const Baggage& texts,
                       Communicator& ranks) {
  Baggage all = texts;
  all[kModelText] = ModelConfigToJson(model.config);
  std::vector<TensorPiece> pieces;
  for (const ParameterSpec& spec : model.layout.specs())
    pieces.push_back({TensorName(kWeightsGroup, spec), spec.shape, 0, model.buffer.View(spec)});
  return WriteCheckpoint(path, ShareOut(pieces, ranks.rank(), ranks.size()), all, ranks);
}

}  // namespace salamander
