// What HuggingFace calls our parameters. All four families share the names; the output gate is
// "z_proj" in a Lightning layer and "o_gate" in a softmax layer.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_HF_NAMES_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_HF_NAMES_H_

#include <string>

#include "absl/status/statusor.h"

#include "model/config.h"

namespace salamander {

// "layers.3.mixer.query.weight" -> "model.layers.3.self_attn.q_proj.weight". Fails for a parameter
// that HuggingFace's classes do not have, such as a candidate's.
absl::StatusOr<std::string> HfTensorName(const ModelConfig& config, const std::string& parameter);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_HF_NAMES_H_
