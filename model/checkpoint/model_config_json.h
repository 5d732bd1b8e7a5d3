// ModelConfig as the JSON text that checkpoints carry: every field under its own name, numbers to
// the last bit. Strict both ways: a missing or unknown key is an error.
#ifndef MODEL_CHECKPOINT_MODEL_CONFIG_JSON_H_
#define MODEL_CHECKPOINT_MODEL_CONFIG_JSON_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/config.h"

namespace salamander {

std::string ModelConfigToJson(const ModelConfig& config);

// Errors begin with "model config". The result has passed ModelConfig::Validate.
absl::StatusOr<ModelConfig> ModelConfigFromJson(absl::string_view text);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_MODEL_CONFIG_JSON_H_
