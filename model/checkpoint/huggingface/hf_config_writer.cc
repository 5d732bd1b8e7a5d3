#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/hf_config.h"
#include "model/checkpoint/huggingface/hf_rope.h"
#include "model/checkpoint/json_fields.h"

namespace salamander {
namespace {

absl::Status CannotExpress(const ModelConfig& model, absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("export: ", what, "; HuggingFace's class of ", Name(model.family),
                   " cannot express it, convert the model to minicpm_sala first"));
}

absl::Status CheckExpressible(const ModelConfig& model) {
  const bool has_candidate =
      std::any_of(model.layers.begin(), model.layers.end(),
                  [](const LayerConfig& layer) { return layer.has_candidate; });
  if (has_candidate) {
    return absl::FailedPreconditionError(
        "export: the model has Lightning candidates beside its layers; drop the losers with "
        "convert --keep first");
  }
  if (model.family == ModelFamily::kMiniCpmSala) return absl::OkStatus();
  const SoftmaxConfig& softmax = model.softmax;
  if (model.has_mixer(MixerKind::kLightning))
    return CannotExpress(model, "it has Lightning layers");
  if (softmax.use_output_gate) return CannotExpress(model, "its attention has output gates");
  if (softmax.use_sparse) return CannotExpress(model, "its attention is sparse");
  if (!softmax.use_rope) return CannotExpress(model, "its attention has no RoPE");
  if (softmax.use_qk_norm != (model.family == ModelFamily::kQwen3)) {
    return CannotExpress(model, softmax.use_qk_norm ? "it normalises queries and keys"
                                                    : "it does not normalise queries and keys");
  }
  const bool has_scales =
      model.embedding_scale != 1 || model.residual_scale != 1 || model.logit_scale != 1;
  if (has_scales && model.family != ModelFamily::kMiniCpm) {
    return CannotExpress(model, "it has muP scales");
  }
  if (model.family == ModelFamily::kMiniCpm && softmax.head_dim * softmax.heads != model.width) {
    return CannotExpress(model, "its heads times head_dim are not its width");
  }
  return absl::OkStatus();
}

struct ClassNames {
  const char* architecture;
  const char* file_suffix;  // of modeling_*.py
  const char* class_prefix;
};

ClassNames NamesOf(ModelFamily family) {
  switch (family) {
    case ModelFamily::kLlama:
      return {"LlamaForCausalLM", "llama", "Llama"};
    case ModelFamily::kQwen3:
      return {"Qwen3ForCausalLM", "qwen3", "Qwen3"};
    case ModelFamily::kMiniCpm:
      return {"MiniCPMForCausalLM", "minicpm", "MiniCPM"};
    case ModelFamily::kMiniCpmSala:
      return {"MiniCPMSALAForCausalLM", "minicpm_sala", "MiniCPMSALA"};
  }
  return {};
}

void WriteMup(const ModelConfig& model, Json& json) {
  // A model that was converted from another family has scales and not the keys behind them.
  json["scale_emb"] = model.embedding_scale;
  json["scale_depth"] =
      model.scale_depth > 0
          ? model.scale_depth
          : model.residual_scale * std::sqrt(static_cast<double>(model.layer_count()));
  json["dim_model_base"] = model.dim_model_base > 0
                               ? model.dim_model_base
                               : std::llround(model.logit_scale * static_cast<double>(model.width));
}

const char* ScaleText(LightningScale scale) {
  switch (scale) {
    case LightningScale::kInverseSqrtHeadDim:
      return "1/sqrt(d)";
    case LightningScale::kInverseHeadDim:
      return "1/d";
    case LightningScale::kOne:
      return "1";
  }
  return "";
}

void WriteSala(const ModelConfig& model, Json& json) {
  const SoftmaxConfig& softmax = model.softmax;
  const LightningConfig& lightning = model.lightning;
  json["attn_use_rope"] = softmax.use_rope;
  json["attn_use_output_gate"] = softmax.use_output_gate;
  json["lightning_use_rope"] = lightning.use_rope;
  json["qk_norm"] = lightning.use_qk_norm;
  json["use_output_norm"] = lightning.use_output_norm;
  json["use_output_gate"] = lightning.use_output_gate;
  const bool has_lightning = model.has_mixer(MixerKind::kLightning);
  json["lightning_nh"] = has_lightning ? lightning.heads : softmax.heads;
  json["lightning_nkv"] = has_lightning ? lightning.kv_heads : softmax.heads;
  json["lightning_head_dim"] = has_lightning ? lightning.head_dim : softmax.head_dim;
  json["lightning_scale"] = ScaleText(lightning.scale);
  Json mixers = Json::array();
  for (const LayerConfig& layer : model.layers) {
    mixers.push_back(layer.mixer == MixerKind::kSoftmax ? "minicpm4" : "lightning-attn");
  }
  json["mixer_types"] = std::move(mixers);
  json["sparse_config"] = nullptr;
  if (softmax.use_sparse) {
    const SparseConfig& sparse = softmax.sparse;
    json["sparse_config"] = {{"kernel_size", sparse.kernel_size},
                             {"kernel_stride", sparse.kernel_stride},
                             {"block_size", sparse.block_size},
                             {"init_blocks", sparse.init_blocks},
                             {"window_size", sparse.window_size},
                             {"topk", sparse.top_k},
                             {"use_nope", false},
                             {"dense_len", sparse.dense_length}};
  }
  Json extension = Json::object();
  if (softmax.use_qk_norm) extension["softmax_qk_norm"] = true;
  if (!lightning.slopes.empty()) extension["lightning_slopes"] = lightning.slopes;
  if (softmax.use_sparse && softmax.sparse.dense_rule == DenseRule::kPerQuery) {
    extension["dense_per_query"] = true;
  }
  if (!extension.empty()) json["salamander"] = std::move(extension);
}

void WriteTokenIds(const ModelConfig& model, Json& json) {
  if (model.bos_id >= 0) json["bos_token_id"] = model.bos_id;
  if (model.pad_id >= 0) json["pad_token_id"] = model.pad_id;
  if (model.eos_ids.size() == 1) {
    json["eos_token_id"] = model.eos_ids.front();
  } else if (!model.eos_ids.empty()) {
    json["eos_token_id"] = model.eos_ids;
  }
}

}  // namespace

absl::StatusOr<std::string> HfConfigText(const ModelConfig& model, const HfConfigOptions& options) {
  RETURN_IF_ERROR(CheckExpressible(model));
  const ClassNames names = NamesOf(model.family);
  Json json = {{"architectures", {names.architecture}},
               {"model_type", std::string(Name(model.family))},
               {"vocab_size", model.vocabulary},
               {"hidden_size", model.width},
               {"intermediate_size", model.intermediate},
               {"num_hidden_layers", model.layer_count()},
               {"num_attention_heads", model.softmax.heads},
               {"num_key_value_heads", model.softmax.kv_heads},
               {"head_dim", model.softmax.head_dim},
               {"hidden_act", "silu"},
               {"attention_bias", false},
               {"attention_dropout", 0.0},
               {"rms_norm_eps", model.norm_epsilon},
               {"max_position_embeddings", model.max_positions},
               {"initializer_range", model.initializer_range},
               {"tie_word_embeddings", model.tie_embeddings},
               {"torch_dtype", options.is_bfloat16 ? "bfloat16" : "float32"},
               {"use_cache", true}};
  WriteHfRope(model.rope, &json);
  WriteTokenIds(model, json);
  const bool is_sala = model.family == ModelFamily::kMiniCpmSala;
  if (is_sala || model.family == ModelFamily::kMiniCpm) WriteMup(model, json);
  if (is_sala) WriteSala(model, json);
  if (options.has_remote_code) {
    json["auto_map"] = {{"AutoConfig", absl::StrCat("configuration_", names.file_suffix, ".",
                                                    names.class_prefix, "Config")},
                        {"AutoModelForCausalLM", absl::StrCat("modeling_", names.file_suffix, ".",
                                                              names.class_prefix, "ForCausalLM")}};
  }
  return json.dump(2) + "\n";
}

}  // namespace salamander
