// The rotary part of HuggingFace's config.json. Private to hf_config.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_HF_ROPE_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_HF_ROPE_H_

#include "absl/strings/string_view.h"

#include "model/checkpoint/json_fields.h"
#include "model/config.h"

namespace salamander {

// Reads "rope_theta" with "rope_scaling", or "rope_parameters", into model->rope; faults go to
// `fields`. Requires: family and max_positions of the model are set.
void ReadHfRope(absl::string_view where, JsonFields& fields, ModelConfig* model);

// Adds "rope_theta" and "rope_scaling", which transformers 4 and 5 both read.
void WriteHfRope(const RopeConfig& rope, Json* json);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_HF_ROPE_H_
