#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"
#include "trainer/commands/commands.h"
#include "trainer/generate/generator.h"
#include "trainer/run/device_model.h"
#include "trainer/run/model_file.h"
#include "trainer/run/workspace.h"

namespace salamander {
namespace {

constexpr int64_t kLargestPrompt = int64_t{256} << 20;

absl::Status Generate(const GenerateCommand& command) {
  std::string prompt = command.prompt;
  if (!command.prompt_file.empty()) {
    ASSIGN_OR_RETURN(prompt, ReadFileBytes(command.prompt_file, kLargestPrompt));
  }
  ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(command.from));
  ASSIGN_OR_RETURN(const auto tokenizer, TokenizerOf(loaded));
  ASSIGN_OR_RETURN(std::vector<int32_t> tokens, tokenizer->Encode(prompt));
  const ModelConfig config = loaded.weights.config;
  if (config.bos_id >= 0) tokens.insert(tokens.begin(), static_cast<int32_t>(config.bos_id));
  if (tokens.empty())
    return absl::InvalidArgumentError(
        "generate: the prompt holds no token; give --prompt or --prompt-file");

  GenerateOptions options{.max_new_tokens = command.max_new_tokens,
                          .sampling = {.temperature = command.temperature,
                                       .top_k = command.top_k,
                                       .top_p = command.top_p,
                                       .seed = command.seed},
                          .stop_ids = config.eos_ids,
                          .on_token = {}};
  if (tokenizer->eos_id() >= 0) options.stop_ids.push_back(tokenizer->eos_id());
  const auto alone = SingleRankCommunicator();
  ASSIGN_OR_RETURN(const std::unique_ptr<DeviceSession> session,
                   OpenDevice(command.device, *alone));
  Workspace workspace(*session);
  ASSIGN_OR_RETURN(const DeviceModel model,
                   DeviceModel::Taking(std::move(loaded.weights), workspace));
  const Prompts prompts = {tokens};
  const Generator generator{*session, workspace.execution(), model.transformer()};
  ASSIGN_OR_RETURN(DecodeCache cache, CacheFor(generator, prompts, options));
  RETURN_IF_ERROR(workspace.ReserveArena(*alone));
  ASSIGN_OR_RETURN(const std::vector<Generated> generated,
                   Generate(generator, std::move(cache), prompts, options));
  ASSIGN_OR_RETURN(const std::string text, tokenizer->Decode(generated.front().tokens));
  std::cout << prompt << text << "\n";
  return absl::OkStatus();
}

}  // namespace

absl::Status RunGenerate(const GenerateCommand& command, Communicator& world) {
  return AgreeOnStatus(world, world.rank() == 0 ? Generate(command) : absl::OkStatus());
}

}  // namespace salamander
