#include "model/checkpoint/huggingface/hf_rope.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace salamander {
namespace {

bool AllPositive(const std::vector<double>& values) {
  for (const double value : values) {
    if (!(value > 0)) return false;
  }
  return true;
}

// Llama 3.1's scaling (transformers' _compute_llama3_parameters).
void ReadLlama3(JsonFields& rope, RopeConfig* config) {
  rope.Require("factor", &config->factor);
  rope.Require("low_freq_factor", &config->low_frequency_factor);
  rope.Require("high_freq_factor", &config->high_frequency_factor);
  rope.Require("original_max_position_embeddings", &config->original_max_positions);
  if (!(config->low_frequency_factor > 0) ||
      !(config->high_frequency_factor > config->low_frequency_factor)) {
    rope.Fail("high_freq_factor", absl::StrCat(config->high_frequency_factor),
              absl::StrCat("more than low_freq_factor ", config->low_frequency_factor,
                           ", which is positive"));
  }
  if (config->original_max_positions < 1) {
    rope.Fail("original_max_position_embeddings", absl::StrCat(config->original_max_positions),
              "a positive number");
  }
}

// LongRoPE. transformers takes the stretch from "factor" unless the config states the original
// length at its top level; MiniCPM's own code always takes max / original.
void ReadLongRope(JsonFields& top, JsonFields& rope, ModelConfig* model) {
  RopeConfig& config = model->rope;
  rope.Require("short_factor", &config.short_factor);
  rope.Require("long_factor", &config.long_factor);
  int64_t original_at_top = 0;
  top.Read("original_max_position_embeddings", &original_at_top);
  config.original_max_positions = original_at_top > 0 ? original_at_top : model->max_positions;
  rope.Read("original_max_position_embeddings", &config.original_max_positions);
  if (config.original_max_positions < 2) {  // the formula divides by its logarithm
    rope.Fail("original_max_position_embeddings", absl::StrCat(config.original_max_positions),
              "at least 2");
  }
  if (!AllPositive(config.short_factor))
    rope.Fail("short_factor", "a factor <= 0", "positive ones");
  if (!AllPositive(config.long_factor)) rope.Fail("long_factor", "a factor <= 0", "positive ones");
  double stretch = 0;
  rope.Read("factor", &stretch);
  rope.Read("attention_factor", &config.attention_factor);
  if (!rope.ok()) return;
  const bool is_minicpm =
      model->family == ModelFamily::kMiniCpm || model->family == ModelFamily::kMiniCpmSala;
  const auto original = static_cast<double>(config.original_max_positions);
  const double implied = static_cast<double>(model->max_positions) / original;
  if (!is_minicpm && config.attention_factor == 0 && original_at_top == 0 && stretch > 0 &&
      stretch != implied) {
    config.attention_factor =
        stretch <= 1 ? 1.0 : std::sqrt(1.0 + std::log(stretch) / std::log(original));
  }
  // MiniCPM builds its table for max_positions at once: where that is beyond the original length,
  // short documents take the long factors too.
  if (is_minicpm && implied > 1) config.short_factor = config.long_factor;
}

std::string RopeType(JsonFields& rope) {
  std::string type = "default";
  std::string legacy;
  rope.Read("type", &legacy);
  if (!legacy.empty()) type = legacy;
  rope.Read("rope_type", &type);
  if (!legacy.empty() && legacy != type) {
    rope.Fail("type", Describe(Json(legacy)), absl::StrCat("the same as rope_type, ", type));
  }
  return type;
}

void ReadScaling(JsonFields& top, JsonFields& rope, ModelConfig* model) {
  RopeConfig& config = model->rope;
  const std::string type = RopeType(rope);
  double partial = 1.0;
  rope.Read("partial_rotary_factor", &partial);
  if (partial != 1.0) rope.Fail("partial_rotary_factor", absl::StrCat(partial), "1");
  if (type == "linear") {
    config.scaling = RopeScalingKind::kLinear;
    rope.Require("factor", &config.factor);
  } else if (type == "llama3") {
    config.scaling = RopeScalingKind::kLlama3;
    ReadLlama3(rope, &config);
  } else if (type == "longrope" || type == "su") {
    config.scaling = RopeScalingKind::kLongRope;
    ReadLongRope(top, rope, model);
  } else if (type != "default") {
    rope.Fail("rope_type", Describe(Json(type)), "default, linear, llama3 or longrope",
              "other kinds of RoPE scaling are not supported");
  }
  if (!(config.factor > 0)) rope.Fail("factor", absl::StrCat(config.factor), "a positive number");
  rope.RefuseUnread();
}

}  // namespace

void ReadHfRope(absl::string_view where, JsonFields& fields, ModelConfig* model) {
  const bool has_theta = fields.Has("rope_theta");
  fields.Read("rope_theta", &model->rope.theta);
  const Json& scaling = fields.At("rope_scaling");
  const Json& parameters = fields.At("rope_parameters");
  if (!scaling.is_null() && !parameters.is_null()) {
    fields.Fail("rope_parameters", "it beside rope_scaling", "one of the two",
                "remove the one that the model was not trained with");
    return;
  }
  const bool is_new = !parameters.is_null();
  if (is_new || !scaling.is_null()) {
    JsonFields rope(is_new ? parameters : scaling, where,
                    is_new ? "rope_parameters." : "rope_scaling.");
    const double outer_theta = model->rope.theta;
    rope.Read("rope_theta", &model->rope.theta);
    if (has_theta && model->rope.theta != outer_theta) {
      rope.Fail("rope_theta", absl::StrCat(model->rope.theta),
                absl::StrCat(outer_theta, ", the rope_theta beside it"));
    }
    ReadScaling(fields, rope, model);
    fields.Adopt(rope.status());
  }
  if (!(model->rope.theta > 0)) {
    fields.Fail("rope_theta", absl::StrCat(model->rope.theta), "a positive number");
  }
}

void WriteHfRope(const RopeConfig& rope, Json* json) {
  (*json)["rope_theta"] = rope.theta;
  Json scaling;
  switch (rope.scaling) {
    case RopeScalingKind::kNone:
      break;
    case RopeScalingKind::kLinear:
      scaling = {{"rope_type", "linear"}, {"factor", rope.factor}};
      break;
    case RopeScalingKind::kLlama3:
      scaling = {{"rope_type", "llama3"},
                 {"factor", rope.factor},
                 {"low_freq_factor", rope.low_frequency_factor},
                 {"high_freq_factor", rope.high_frequency_factor},
                 {"original_max_position_embeddings", rope.original_max_positions}};
      break;
    case RopeScalingKind::kLongRope:
      scaling = {{"rope_type", "longrope"},
                 {"short_factor", rope.short_factor},
                 {"long_factor", rope.long_factor},
                 {"original_max_position_embeddings", rope.original_max_positions}};
      if (rope.attention_factor > 0) scaling["attention_factor"] = rope.attention_factor;
      break;
  }
  (*json)["rope_scaling"] = std::move(scaling);
}

}  // namespace salamander
