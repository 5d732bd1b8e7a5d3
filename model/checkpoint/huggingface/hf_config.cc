#include "model/checkpoint/huggingface/hf_config.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/hf_rope.h"
#include "model/checkpoint/json_fields.h"

namespace salamander {
namespace {

// How transformers names a family's class.
struct FamilyNames {
  ModelFamily family;
  const char* model_type;
  const char* architecture;
};

constexpr FamilyNames kFamilies[] = {
    {ModelFamily::kLlama, "llama", "LlamaForCausalLM"},
    {ModelFamily::kQwen3, "qwen3", "Qwen3ForCausalLM"},
    {ModelFamily::kMiniCpm, "minicpm", "MiniCPMForCausalLM"},
    {ModelFamily::kMiniCpmSala, "minicpm_sala", "MiniCPMSALAForCausalLM"}};

constexpr char kSupported[] =
    "llama (LlamaForCausalLM), qwen3 (Qwen3ForCausalLM), minicpm (MiniCPMForCausalLM) or "
    "minicpm_sala (MiniCPMSALAForCausalLM)";

bool HasMup(ModelFamily family) {
  return family == ModelFamily::kMiniCpm || family == ModelFamily::kMiniCpmSala;
}

class HfConfigReader {
 public:
  HfConfigReader(absl::string_view where, const Json& json) : where_(where), fields_(json, where) {}

  absl::StatusOr<HfConfig> Read() {
    ReadFamily();
    ReadShape();
    RefuseUnsupported();
    if (fields_.ok()) ReadHfRope(where_, fields_, &model_);
    if (HasMup(model_.family)) ReadMup();
    if (model_.family == ModelFamily::kMiniCpmSala) ReadSala();
    ReadTokenIds();
    RETURN_IF_ERROR(fields_.status());
    RETURN_IF_ERROR(Annotate(model_.Validate(), where_));
    return HfConfig{std::move(model_), fields_.UnreadKeys()};
  }

 private:
  void ReadFamily() {
    std::string model_type;
    std::vector<std::string> architectures;
    fields_.Read("model_type", &model_type);
    fields_.Read("architectures", &architectures);
    for (const FamilyNames& names : kFamilies) {
      if (model_type.empty() ? (!architectures.empty() && architectures[0] == names.architecture)
                             : model_type == names.model_type) {
        model_.family = names.family;
        if (!architectures.empty() && architectures[0] != names.architecture) {
          fields_.Fail("architectures", Describe(Json(architectures[0])), names.architecture,
                       "only causal language models are read");
        }
        return;
      }
    }
    fields_.Fail(model_type.empty() ? "architectures" : "model_type",
                 model_type.empty() && architectures.empty()
                     ? "nothing"
                     : Describe(Json(model_type.empty() ? architectures[0] : model_type)),
                 kSupported, "this architecture is not supported");
  }

  // A dimension of a tensor, bounded so that no size in bytes overflows 63 bits.
  void RequireDimension(const char* key, int64_t* value) {
    fields_.Require(key, value);
    CheckDimension(key, *value);
  }
  void CheckDimension(const char* key, int64_t value) {
    constexpr int64_t kLargest = 1 << 22;
    if (value < 1 || value > kLargest) {
      fields_.Fail(key, absl::StrCat(value), absl::StrCat("1 to ", kLargest));
    }
  }
  void CheckHeads(const char* key, int64_t heads, const char* head_dim_key, int64_t head_dim) {
    CheckDimension(key, heads);
    CheckDimension(head_dim_key, head_dim);
    if (fields_.ok())
      CheckDimension(absl::StrCat(key, " * ", head_dim_key).c_str(), heads * head_dim);
  }

  void ReadShape() {
    RequireDimension("vocab_size", &model_.vocabulary);
    RequireDimension("hidden_size", &model_.width);
    RequireDimension("intermediate_size", &model_.intermediate);
    int64_t layers = 0;
    RequireDimension("num_hidden_layers", &layers);
    constexpr int64_t kMostLayers = 10000;
    if (layers > kMostLayers)
      fields_.Fail("num_hidden_layers", absl::StrCat(layers), "at most 10000");
    if (fields_.ok()) model_.layers.resize(static_cast<size_t>(layers));

    SoftmaxConfig& softmax = model_.softmax;
    RequireDimension("num_attention_heads", &softmax.heads);
    softmax.kv_heads = softmax.heads;
    fields_.Read("num_key_value_heads", &softmax.kv_heads);
    CheckDimension("num_key_value_heads", softmax.kv_heads);
    ReadHeadDim();
    softmax.use_qk_norm = model_.family == ModelFamily::kQwen3;

    fields_.Read("rms_norm_eps", &model_.norm_epsilon);
    if (!(model_.norm_epsilon > 0)) {
      fields_.Fail("rms_norm_eps", absl::StrCat(model_.norm_epsilon), "a positive number");
    }
    fields_.Require("max_position_embeddings", &model_.max_positions);
    if (model_.max_positions < 1 || model_.max_positions > std::numeric_limits<int32_t>::max()) {
      fields_.Fail("max_position_embeddings", absl::StrCat(model_.max_positions),
                   "1 to 2147483647");
    }
    fields_.Read("initializer_range", &model_.initializer_range);
    if (!(model_.initializer_range >= 0)) {
      fields_.Fail("initializer_range", absl::StrCat(model_.initializer_range), "0 or more");
    }
    model_.tie_embeddings = HasMup(model_.family);  // the default of MiniCPM's classes
    fields_.Read("tie_word_embeddings", &model_.tie_embeddings);
  }

  void ReadHeadDim() {
    SoftmaxConfig& softmax = model_.softmax;
    fields_.Read("head_dim", &softmax.head_dim);
    if (fields_.Has("head_dim") || !fields_.ok()) {
      CheckHeads("num_attention_heads", softmax.heads, "head_dim", softmax.head_dim);
    } else if (model_.family == ModelFamily::kQwen3) {
      softmax.head_dim = 128;  // the default of Qwen3's class, whatever the width
    } else if (model_.width % softmax.heads != 0) {
      fields_.Fail("num_attention_heads", absl::StrCat(softmax.heads),
                   absl::StrCat("a divisor of hidden_size ", model_.width), "or state head_dim");
    } else {
      softmax.head_dim = model_.width / softmax.heads;
    }
  }

  // Features of these classes, and of their cousins, that ModelConfig has no field for.
  void RefuseUnsupported() {
    constexpr char kRemedy[] = "this feature is not supported";
    std::string activation = "silu";
    fields_.Read("hidden_act", &activation);
    if (activation != "silu") {
      fields_.Fail("hidden_act", Describe(Json(activation)), "silu", kRemedy);
    }
    bool slides = false;
    fields_.Read("use_sliding_window", &slides);
    if (slides) fields_.Fail("use_sliding_window", "true", "false", kRemedy);
    for (const char* const key : {"attention_bias", "mlp_bias"}) {
      bool is_on = false;
      fields_.Read(key, &is_on);
      if (is_on) fields_.Fail(key, "true", "false", kRemedy);
    }
    for (const char* const key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
      int64_t experts = 0;
      fields_.Read(key, &experts);
      if (experts != 0) fields_.Fail(key, absl::StrCat(experts), "0 or nothing", kRemedy);
    }
    for (const char* const key :
         {"quantization_config", "attn_logit_softcapping", "final_logit_softcapping"}) {
      const Json& value = fields_.At(key);
      if (!value.is_null()) fields_.Fail(key, Describe(value), "nothing", kRemedy);
    }
    // Qwen3's class ignores the window unless use_sliding_window turns it on.
    const Json& window = fields_.At("sliding_window");
    if (!window.is_null() && model_.family != ModelFamily::kQwen3) {
      fields_.Fail("sliding_window", Describe(window), "nothing", kRemedy);
    }
    double rotary = 1.0;
    fields_.Read("partial_rotary_factor", &rotary);
    if (rotary != 1.0) fields_.Fail("partial_rotary_factor", absl::StrCat(rotary), "1", kRemedy);
    std::vector<std::string> layer_types;
    fields_.Read("layer_types", &layer_types);
    for (const std::string& type : layer_types) {
      if (type != "full_attention") {
        fields_.Fail("layer_types", Describe(Json(type)), "full_attention in every layer", kRemedy);
      }
    }
    if (model_.family != ModelFamily::kMiniCpmSala && fields_.Has("sparse_config")) {
      fields_.Fail("sparse_config", Describe(fields_.At("sparse_config")), "nothing",
                   "set it to null to take the model as dense");
    }
  }

  void ReadMup() {
    fields_.Require("scale_emb", &model_.embedding_scale);
    fields_.Require("scale_depth", &model_.scale_depth);
    RequireDimension("dim_model_base", &model_.dim_model_base);
    for (const auto& [key, value] : {std::pair("scale_emb", model_.embedding_scale),
                                     std::pair("scale_depth", model_.scale_depth)}) {
      if (!(value > 0)) fields_.Fail(key, absl::StrCat(value), "a positive number");
    }
    if (!fields_.ok()) return;
    model_.residual_scale =
        model_.scale_depth / std::sqrt(static_cast<double>(model_.layer_count()));
    model_.logit_scale =
        static_cast<double>(model_.dim_model_base) / static_cast<double>(model_.width);
  }

  void ReadSala() {
    SoftmaxConfig& softmax = model_.softmax;
    LightningConfig& lightning = model_.lightning;
    fields_.Require("attn_use_rope", &softmax.use_rope);
    fields_.Require("attn_use_output_gate", &softmax.use_output_gate);
    fields_.Require("lightning_use_rope", &lightning.use_rope);
    fields_.Require("qk_norm", &lightning.use_qk_norm);
    fields_.Require("use_output_norm", &lightning.use_output_norm);
    fields_.Require("use_output_gate", &lightning.use_output_gate);
    lightning.heads = lightning.kv_heads = softmax.heads;
    lightning.head_dim = softmax.head_dim;
    fields_.Read("lightning_nh", &lightning.heads);
    fields_.Read("lightning_nkv", &lightning.kv_heads);
    fields_.Read("lightning_head_dim", &lightning.head_dim);
    CheckHeads("lightning_nh", lightning.heads, "lightning_head_dim", lightning.head_dim);
    CheckDimension("lightning_nkv", lightning.kv_heads);
    std::string scale;
    fields_.Require("lightning_scale", &scale);
    if (scale == "1/sqrt(d)") {
      lightning.scale = LightningScale::kInverseSqrtHeadDim;
    } else if (scale == "1/d") {
      lightning.scale = LightningScale::kInverseHeadDim;
    } else if (scale == "1") {
      lightning.scale = LightningScale::kOne;
    } else {
      fields_.Fail("lightning_scale", Describe(Json(scale)), "\"1/sqrt(d)\", \"1/d\" or \"1\"");
    }
    ReadMixers();
    ReadSparse();
    ReadExtension();
  }

  void ReadMixers() {
    std::vector<std::string> mixers;
    fields_.Require("mixer_types", &mixers);
    if (!fields_.ok()) return;
    if (mixers.size() != model_.layers.size()) {
      fields_.Fail("mixer_types", absl::StrCat("a list of ", mixers.size()),
                   absl::StrCat("one entry for each of ", model_.layers.size(), " layers"));
      return;
    }
    for (size_t layer = 0; layer < mixers.size(); ++layer) {
      const std::string& mixer = mixers[layer];
      if (mixer == "lightning-attn" || mixer == "lightning" || mixer == "lightning_attn") {
        model_.layers[layer].mixer = MixerKind::kLightning;
      } else if (mixer != "minicpm4") {
        fields_.Fail(absl::StrCat("mixer_types[", layer, "]"), Describe(Json(mixer)),
                     "minicpm4 or lightning-attn");
      }
    }
  }

  void ReadSparse() {
    const Json& json = fields_.At("sparse_config");
    model_.softmax.use_sparse = !json.is_null();
    if (json.is_null()) return;
    SparseConfig& sparse = model_.softmax.sparse;
    JsonFields fields(json, where_, "sparse_config.");
    fields.Require("kernel_size", &sparse.kernel_size);
    fields.Require("kernel_stride", &sparse.kernel_stride);
    fields.Require("block_size", &sparse.block_size);
    fields.Require("init_blocks", &sparse.init_blocks);
    fields.Require("window_size", &sparse.window_size);
    fields.Require("topk", &sparse.top_k);
    fields.Require("dense_len", &sparse.dense_length);
    for (const auto& [key, value] :
         {std::pair("kernel_size", sparse.kernel_size),
          std::pair("kernel_stride", sparse.kernel_stride),
          std::pair("block_size", sparse.block_size), std::pair("init_blocks", sparse.init_blocks),
          std::pair("window_size", sparse.window_size), std::pair("topk", sparse.top_k),
          std::pair("dense_len", sparse.dense_length)}) {
      if (value < 0 || value > std::numeric_limits<int32_t>::max()) {
        fields.Fail(key, absl::StrCat(value), "0 to 2147483647");
      }
    }
    bool scores_without_rope = false;
    fields.Read("use_nope", &scores_without_rope);
    if (scores_without_rope && model_.softmax.use_rope) {
      fields.Fail("use_nope", "true with attn_use_rope", "false",
                  "scoring blocks without RoPE is not supported");
    }
    fields.RefuseUnread();
    fields_.Adopt(fields.status());
  }

  void ReadExtension() {
    const Json& json = fields_.At("salamander");
    if (json.is_null()) return;
    JsonFields fields(json, where_, "salamander.");
    fields.Read("softmax_qk_norm", &model_.softmax.use_qk_norm);
    fields.Read("lightning_slopes", &model_.lightning.slopes);
    bool per_query = false;
    fields.Read("dense_per_query", &per_query);
    model_.softmax.sparse.dense_rule = per_query ? DenseRule::kPerQuery : DenseRule::kPerDocument;
    fields.RefuseUnread();
    fields_.Adopt(fields.status());
  }

  void ReadTokenIds() {
    fields_.Read("bos_token_id", &model_.bos_id);
    fields_.Read("pad_token_id", &model_.pad_id);
    if (fields_.At("eos_token_id").is_array()) {
      fields_.Read("eos_token_id", &model_.eos_ids);
    } else if (fields_.Has("eos_token_id")) {
      int64_t id = -1;
      fields_.Read("eos_token_id", &id);
      model_.eos_ids = {id};
    }
    CheckId("bos_token_id", model_.bos_id);
    CheckId("pad_token_id", model_.pad_id);
    for (const int64_t id : model_.eos_ids) CheckId("eos_token_id", id);
  }

  void CheckId(const char* key, int64_t id) {
    if (id < -1 || id >= model_.vocabulary) {
      fields_.Fail(key, absl::StrCat(id),
                   absl::StrCat("an id below vocab_size ", model_.vocabulary, ", or null"));
    }
  }

  std::string where_;
  JsonFields fields_;
  ModelConfig model_;
};

}  // namespace

absl::StatusOr<HfConfig> ParseHfConfig(absl::string_view where, absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(where, text));
  return HfConfigReader(where, json).Read();
}

}  // namespace salamander
