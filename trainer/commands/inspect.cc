#include <filesystem>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "data/storage/file_bytes.h"
#include "data/tokens/token_file.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/hf_import.h"
#include "model/checkpoint/model_config_json.h"
#include "trainer/commands/commands.h"
#include "trainer/report/table.h"
#include "trainer/run/model_file.h"

namespace salamander {
namespace {

void PrintConfig(const ModelConfig& config) {
  std::vector<int64_t> softmax;
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    if (config.layers[static_cast<size_t>(layer)].mixer == MixerKind::kSoftmax)
      softmax.push_back(layer);
  }
  std::cout << Name(config.family) << ": " << config.layer_count() << " layers of width "
            << config.width << ", vocabulary " << config.vocabulary << ", "
            << ParameterLayout(config).parameter_count() << " parameters\n"
            << "softmax layers: " << absl::StrJoin(softmax, ", ")
            << (config.softmax.use_sparse ? " (sparse)" : "")
            << (config.softmax.use_rope ? " (RoPE)" : " (no RoPE)") << "\n";
}

absl::Status InspectCheckpoint(const std::string& path, bool verify) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(path));
  std::cout << "checkpoint " << path << "\n";
  ASSIGN_OR_RETURN(const std::string text, checkpoint.Metadata(kModelText));
  ASSIGN_OR_RETURN(const ModelConfig config, ModelConfigFromJson(text));
  PrintConfig(config);
  std::cout << checkpoint.tensors().size()
            << " tensors; texts: " << absl::StrJoin(checkpoint.MetadataNames(), ", ") << "\n";
  if (!verify) return absl::OkStatus();
  RETURN_IF_ERROR(checkpoint.Verify());
  std::cout << "every checksum holds\n";
  return absl::OkStatus();
}

absl::Status InspectTokens(const std::string& path, bool verify) {
  ASSIGN_OR_RETURN(const auto file, TokenFileReader::Open(path));
  const TokenFileInfo& info = file->info();
  std::cout << "token file " << path << "\n"
            << info.token_count << " tokens of " << info.vocab_size << " kinds in "
            << info.document_count << " documents, " << info.bytes_per_token << " bytes each"
            << (info.has_loss_mask ? ", with a loss mask" : "") << "; tokenizer "
            << info.tokenizer_fingerprint << "\n";
  if (!verify) return absl::OkStatus();
  RETURN_IF_ERROR(file->VerifyAll());
  std::cout << "every checksum holds\n";
  return absl::OkStatus();
}

absl::Status InspectFolder(const std::string& path) {
  ASSIGN_OR_RETURN(const HfFolder folder, HfFolder::Open(path));
  std::cout << "HuggingFace folder " << path << "\n";
  PrintConfig(folder.config());
  return absl::OkStatus();
}

absl::Status Inspect(const InspectCommand& command) {
  if (FileSize(absl::StrCat(command.path, "/config.json")).ok()) return InspectFolder(command.path);
  const auto checkpoint = ResolveCheckpoint(command.path);
  if (checkpoint.ok()) return InspectCheckpoint(*checkpoint, command.verify);
  if (std::filesystem::is_regular_file(command.path)) {
    return InspectTokens(command.path, command.verify);
  }
  return absl::NotFoundError(absl::StrCat(
      command.path,
      ": neither a checkpoint, a run, a HuggingFace folder (config.json) nor a token file"));
}

}  // namespace

absl::Status RunInspect(const InspectCommand& command, Communicator& world) {
  return AgreeOnStatus(world, world.rank() == 0 ? Inspect(command) : absl::OkStatus());
}

}  // namespace salamander
