#include "model/checkpoint/model_config_json.h"

#include <array>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/status_macros.h"
#include "model/checkpoint/json_fields.h"

namespace salamander {
namespace {

// The names of an enum's values, in their order.
template <typename Enum>
struct Names;
template <>
struct Names<ModelFamily> {
  static constexpr std::array kValues = {"llama", "qwen3", "minicpm", "minicpm_sala"};
};
template <>
struct Names<RopeScalingKind> {
  static constexpr std::array kValues = {"none", "linear", "llama3", "longrope"};
};
template <>
struct Names<DenseRule> {
  static constexpr std::array kValues = {"per_document", "per_query"};
};
template <>
struct Names<LightningScale> {
  static constexpr std::array kValues = {"1/sqrt(d)", "1/d", "1"};
};

// A layer in a word: its mixer, and whether a candidate stands beside it.
constexpr char kCandidate[] = "softmax+candidate";

// Each VisitFields takes its struct apart by name, so that a field added to the struct and not here
// does not compile.
template <typename Visitor>
void VisitFields(RopeConfig& rope, Visitor& visit) {
  auto& [theta, scaling, factor, low_frequency_factor, high_frequency_factor,
         original_max_positions, short_factor, long_factor, attention_factor] = rope;
  visit("theta", theta);
  visit("scaling", scaling);
  visit("factor", factor);
  visit("low_frequency_factor", low_frequency_factor);
  visit("high_frequency_factor", high_frequency_factor);
  visit("original_max_positions", original_max_positions);
  visit("short_factor", short_factor);
  visit("long_factor", long_factor);
  visit("attention_factor", attention_factor);
}

template <typename Visitor>
void VisitFields(SparseConfig& sparse, Visitor& visit) {
  auto& [kernel_size, kernel_stride, block_size, init_blocks, window_size, top_k, dense_length,
         dense_rule] = sparse;
  visit("kernel_size", kernel_size);
  visit("kernel_stride", kernel_stride);
  visit("block_size", block_size);
  visit("init_blocks", init_blocks);
  visit("window_size", window_size);
  visit("top_k", top_k);
  visit("dense_length", dense_length);
  visit("dense_rule", dense_rule);
}

template <typename Visitor>
void VisitFields(SoftmaxConfig& softmax, Visitor& visit) {
  auto& [heads, kv_heads, head_dim, use_rope, use_qk_norm, use_output_gate, use_sparse, sparse] =
      softmax;
  visit("heads", heads);
  visit("kv_heads", kv_heads);
  visit("head_dim", head_dim);
  visit("use_rope", use_rope);
  visit("use_qk_norm", use_qk_norm);
  visit("use_output_gate", use_output_gate);
  visit("use_sparse", use_sparse);
  visit("sparse", sparse);
}

template <typename Visitor>
void VisitFields(LightningConfig& lightning, Visitor& visit) {
  auto& [heads, kv_heads, head_dim, use_rope, use_qk_norm, use_output_norm, use_output_gate, scale,
         slopes] = lightning;
  visit("heads", heads);
  visit("kv_heads", kv_heads);
  visit("head_dim", head_dim);
  visit("use_rope", use_rope);
  visit("use_qk_norm", use_qk_norm);
  visit("use_output_norm", use_output_norm);
  visit("use_output_gate", use_output_gate);
  visit("scale", scale);
  visit("slopes", slopes);
}

template <typename Visitor>
void VisitFields(ModelConfig& config, Visitor& visit) {
  auto& [family, vocabulary, width, intermediate, layers, norm_epsilon, tie_embeddings,
         max_positions, initializer_range, embedding_scale, residual_scale, logit_scale,
         scale_depth, dim_model_base, softmax, lightning, rope, bos_id, eos_ids, pad_id] = config;
  visit("family", family);
  visit("vocabulary", vocabulary);
  visit("width", width);
  visit("intermediate", intermediate);
  visit("layers", layers);
  visit("norm_epsilon", norm_epsilon);
  visit("tie_embeddings", tie_embeddings);
  visit("max_positions", max_positions);
  visit("initializer_range", initializer_range);
  visit("embedding_scale", embedding_scale);
  visit("residual_scale", residual_scale);
  visit("logit_scale", logit_scale);
  visit("scale_depth", scale_depth);
  visit("dim_model_base", dim_model_base);
  visit("softmax", softmax);
  visit("lightning", lightning);
  visit("rope", rope);
  visit("bos_id", bos_id);
  visit("eos_ids", eos_ids);
  visit("pad_id", pad_id);
}

class Writer {
 public:
  template <typename Value>
  void operator()(const char* key, Value& value) {
    if constexpr (std::is_enum_v<Value>) {
      json_[key] = Names<Value>::kValues[static_cast<size_t>(value)];
    } else if constexpr (std::is_class_v<Value> && !std::is_constructible_v<Json, Value>) {
      Writer nested;
      VisitFields(value, nested);
      json_[key] = std::move(nested.json_);
    } else {
      json_[key] = value;
    }
  }
  void operator()(const char* key, std::vector<LayerConfig>& layers) {
    Json words = Json::array();
    for (const LayerConfig& layer : layers) {
      words.push_back(layer.has_candidate ? std::string(kCandidate)
                                          : std::string(Name(layer.mixer)));
    }
    json_[key] = std::move(words);
  }

  const Json& json() const { return json_; }

 private:
  Json json_ = Json::object();
};

class Reader {
 public:
  Reader(const Json& json, const std::string& path)
      : fields_(json, "model config", path), path_(path) {}

  template <typename Value>
  void operator()(const char* key, Value& value) {
    if constexpr (std::is_enum_v<Value>) {
      ReadEnum(key, value);
    } else if constexpr (std::is_class_v<Value> && !std::is_constructible_v<Json, Value>) {
      Reader nested(fields_.At(key), absl::StrCat(path_, key, "."));
      VisitFields(value, nested);
      if (const absl::Status status = nested.Finish(); !status.ok() && nested_status_.ok()) {
        nested_status_ = status;
      }
    } else {
      fields_.Require(key, &value);
    }
  }
  void operator()(const char* key, std::vector<LayerConfig>& layers) {
    std::vector<std::string> words;
    fields_.Require(key, &words);
    for (const std::string& word : words) {
      if (word == kCandidate) {
        layers.push_back({MixerKind::kSoftmax, true});
      } else if (word == Name(MixerKind::kSoftmax)) {
        layers.push_back({MixerKind::kSoftmax, false});
      } else if (word == Name(MixerKind::kLightning)) {
        layers.push_back({MixerKind::kLightning, false});
      } else {
        fields_.Fail(absl::StrCat(key, "[", layers.size(), "]"), Describe(Json(word)),
                     "softmax, softmax+candidate or lightning");
        return;
      }
    }
  }

  absl::Status Finish() {
    fields_.RefuseUnread();
    RETURN_IF_ERROR(fields_.status());
    return nested_status_;
  }

 private:
  template <typename Enum>
  void ReadEnum(const char* key, Enum& value) {
    std::string word;
    fields_.Require(key, &word);
    const auto& names = Names<Enum>::kValues;
    for (size_t index = 0; index < names.size(); ++index) {
      if (word == names[index]) {
        value = static_cast<Enum>(index);
        return;
      }
    }
    fields_.Fail(key, Describe(Json(word)), absl::StrCat("one of ", absl::StrJoin(names, ", ")));
  }

  JsonFields fields_;
  std::string path_;
  absl::Status nested_status_;
};

}  // namespace

std::string ModelConfigToJson(const ModelConfig& config) {
  ModelConfig copy = config;  // one visit serves reading and writing, and takes it by reference
  Writer writer;
  VisitFields(copy, writer);
  return writer.json().dump(2) + "\n";
}

absl::StatusOr<ModelConfig> ModelConfigFromJson(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseJson("model config", text));
  ModelConfig config;
  Reader reader(json, "");
  VisitFields(config, reader);
  RETURN_IF_ERROR(reader.Finish());
  RETURN_IF_ERROR(config.Validate());
  return config;
}

}  // namespace salamander
