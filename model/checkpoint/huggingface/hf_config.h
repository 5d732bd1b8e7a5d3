// HuggingFace's config.json to and from ModelConfig, for Llama, Qwen3, MiniCPM-4 (dense) and
// MiniCPM-SALA, as transformers 4 ("rope_theta", "rope_scaling") and 5 ("rope_parameters") write
// it. Which key means what: docs/formats/huggingface.md.
//
// A key that changes the arithmetic in a way that ModelConfig cannot express is an error that names
// it; a key that changes nothing is listed as ignored.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_HF_CONFIG_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_HF_CONFIG_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/config.h"

namespace salamander {

struct HfConfig {
  ModelConfig model;  // has passed ModelConfig::Validate
  std::vector<std::string> ignored_keys;
};

// `where` leads every error: the file's path.
absl::StatusOr<HfConfig> ParseHfConfig(absl::string_view where, absl::string_view text);

struct HfConfigOptions {
  bool is_bfloat16 = true;       // the precision of the weights beside it
  bool has_remote_code = false;  // modeling_*.py go along, and "auto_map" names their classes
};

// Keys sorted, as transformers writes them. What no HuggingFace class has, ours read back from an
// object "salamander". Fails where the family's class cannot express the model: candidates beside
// layers, a hybrid as Llama.
absl::StatusOr<std::string> HfConfigText(const ModelConfig& model, const HfConfigOptions& options);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_HF_CONFIG_H_
