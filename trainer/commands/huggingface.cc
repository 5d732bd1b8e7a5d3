// import and export: HuggingFace folders in and out.
#include <iostream>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "data/storage/atomic_path.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/hf_export.h"
#include "model/checkpoint/huggingface/hf_import.h"
#include "trainer/commands/commands.h"
#include "trainer/report/table.h"
#include "trainer/run/model_file.h"

namespace salamander {
namespace {

constexpr char kSentencePieceFile[] = "tokenizer.model";

std::vector<NamedTensor> NamedTensorsOf(const ModelWeights& model) {
  std::vector<NamedTensor> tensors;
  for (const ParameterSpec& spec : model.layout.specs())
    tensors.push_back({spec.name, model.buffer.View(spec)});
  return tensors;
}

// Every tensor's fate: a count of each, and by name what was not simply loaded.
void PrintImport(const HfFolder& folder, const std::vector<TensorReport>& reports) {
  std::map<std::string, int> counts;
  Table table({"tensor", "found", "fate"});
  for (const TensorReport& report : reports) {
    ++counts[Name(report.fate)];
    if (report.fate != TensorFate::kLoaded)
      table.AddRow({report.tensor, report.found, Name(report.fate)});
  }
  std::cout << Name(folder.config().family) << ", " << folder.config().layer_count()
            << " layers; tensors:";
  for (const auto& [fate, count] : counts) std::cout << " " << count << " " << fate;
  std::cout << "\n";
  if (counts.size() > 1) std::cout << table.Text();
  for (const std::string& key : folder.ignored_config_keys())
    std::cout << "config.json: " << key << " changes nothing here\n";
}

absl::StatusOr<Baggage> BaggageOf(const HfFolder& folder, const std::string& directory) {
  Baggage baggage;
  ASSIGN_OR_RETURN(const HfSideFiles files, folder.ReadSideFiles());
  for (const auto& [name, bytes] : files) baggage[absl::StrCat(kSideFilePrefix, name)] = bytes;
  if (files.count(kSentencePieceFile) > 0) {
    ASSIGN_OR_RETURN(const auto tokenizer,
                     LoadSentencePieceTokenizer(absl::StrCat(directory, "/", kSentencePieceFile)));
    baggage[kTokenizerText] = tokenizer->Serialized();
  }
  return baggage;
}

HfSideFiles SideFilesOf(const LoadedModel& model) {
  HfSideFiles files;
  for (const auto& [name, bytes] : model.baggage) {
    if (absl::StartsWith(name, kSideFilePrefix))
      files[name.substr(sizeof(kSideFilePrefix) - 1)] = bytes;
  }
  const auto tokenizer = model.baggage.find(kTokenizerText);
  if (tokenizer != model.baggage.end() && files.count(kSentencePieceFile) == 0) {
    const std::string bytes = SentencePieceModelOf(tokenizer->second);
    if (!bytes.empty()) files[kSentencePieceFile] = bytes;
  }
  return files;
}

absl::Status Export(const ExportCommand& command) {
  if (command.dtype != "bf16" && command.dtype != "fp32") {
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype ", command.dtype, ": expected bf16 or fp32"));
  }
  RETURN_IF_ERROR(AtomicDirectory::Begin(command.out).status());
  ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(command.from));
  const auto precision =
      command.dtype == "bf16" ? SafetensorsPrecision::kBfloat16 : SafetensorsPrecision::kFloat32;
  RETURN_IF_ERROR(
      ExportHfFolder(command.out, model.weights.config, NamedTensorsOf(model.weights),
                     {.weights = {.precision = precision, .max_shard_bytes = command.shard_bytes},
                      .side_files = SideFilesOf(model)}));
  LogInfo(absl::StrCat("wrote ", command.out, " from ", model.path));
  return absl::OkStatus();
}

absl::StatusOr<LoadedModel> ReadFolder(const std::string& directory, bool is_first) {
  ASSIGN_OR_RETURN(const HfFolder folder, HfFolder::Open(directory));
  ASSIGN_OR_RETURN(ModelWeights model, ModelWeights::Create(folder.config(), DType::kFloat32));
  ASSIGN_OR_RETURN(const std::vector<TensorReport> reports, folder.Load(NamedTensorsOf(model)));
  ASSIGN_OR_RETURN(Baggage baggage, BaggageOf(folder, directory));
  if (is_first) PrintImport(folder, reports);
  return LoadedModel{directory, std::move(model), std::move(baggage)};
}

}  // namespace

absl::Status RunImport(const ImportCommand& command, Communicator& world) {
  RETURN_IF_ERROR(CheckCanSave(command.out, world));
  const auto read = ReadFolder(command.folder, world.rank() == 0);
  RETURN_IF_ERROR(AgreeOnStatus(world, read.status()));
  RETURN_IF_ERROR(SaveModel(command.out, read->weights, read->baggage, world));
  LogInfo(absl::StrCat("wrote ", command.out, ", ", read->weights.layout.parameter_count(),
                       " parameters"));
  return absl::OkStatus();
}

absl::Status RunExport(const ExportCommand& command, Communicator& world) {
  return AgreeOnStatus(world, world.rank() == 0 ? Export(command) : absl::OkStatus());
}

}  // namespace salamander
