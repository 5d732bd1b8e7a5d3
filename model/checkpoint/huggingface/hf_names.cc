#include "model/checkpoint/huggingface/hf_names.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace salamander {
namespace {

using NamePair = std::pair<const char*, const char*>;  // ours, HuggingFace's

constexpr NamePair kModelNames[] = {{"embedding.weight", "model.embed_tokens.weight"},
                                    {"final_norm.weight", "model.norm.weight"},
                                    {"head.weight", "lm_head.weight"}};

constexpr NamePair kLayerNames[] = {{"input_norm.weight", "input_layernorm.weight"},
                                    {"post_norm.weight", "post_attention_layernorm.weight"},
                                    {"mlp.gate.weight", "mlp.gate_proj.weight"},
                                    {"mlp.up.weight", "mlp.up_proj.weight"},
                                    {"mlp.down.weight", "mlp.down_proj.weight"},
                                    {"mixer.query.weight", "self_attn.q_proj.weight"},
                                    {"mixer.key.weight", "self_attn.k_proj.weight"},
                                    {"mixer.value.weight", "self_attn.v_proj.weight"},
                                    {"mixer.output.weight", "self_attn.o_proj.weight"},
                                    {"mixer.query_norm.weight", "self_attn.q_norm.weight"},
                                    {"mixer.key_norm.weight", "self_attn.k_norm.weight"},
                                    {"mixer.output_norm.weight", "self_attn.o_norm.weight"}};

}  // namespace

absl::StatusOr<std::string> HfTensorName(const ModelConfig& config, const std::string& parameter) {
  for (const auto& [ours, theirs] : kModelNames) {
    if (parameter == ours) return std::string(theirs);
  }
  absl::string_view rest = parameter;
  const size_t dot = rest.find('.', sizeof("layers.") - 1);
  int64_t layer = -1;
  if (absl::ConsumePrefix(&rest, "layers.") && dot != absl::string_view::npos &&
      absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= 0 &&
      layer < config.layer_count()) {
    rest.remove_prefix(rest.find('.') + 1);
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    for (const auto& [ours, theirs] : kLayerNames) {
      if (rest == ours) return absl::StrCat(prefix, theirs);
    }
    if (rest == "mixer.gate.weight") {
      const bool is_softmax =
          config.layers[static_cast<size_t>(layer)].mixer == MixerKind::kSoftmax;
      return absl::StrCat(prefix, "self_attn.", is_softmax ? "o_gate" : "z_proj", ".weight");
    }
  }
  return absl::NotFoundError(absl::StrCat("parameter ", parameter, ": HuggingFace's class of ",
                                          Name(config.family), " has no tensor for it"));
}

}  // namespace salamander
