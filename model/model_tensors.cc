#include "model/model_tensors.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace salamander {
namespace {

using Lookup = std::function<TensorView(const std::string&)>;

MixerTensors BindMixer(const Lookup& view, const std::string& prefix) {
  return {.query = view(prefix + "query.weight"),
          .key = view(prefix + "key.weight"),
          .value = view(prefix + "value.weight"),
          .output = view(prefix + "output.weight"),
          .query_norm = view(prefix + "query_norm.weight"),
          .key_norm = view(prefix + "key_norm.weight"),
          .output_norm = view(prefix + "output_norm.weight"),
          .gate = view(prefix + "gate.weight")};
}

}  // namespace

ModelTensors BindTrainable(const ModelConfig& config, const ParameterLayout& layout,
                           const ParameterBuffer& buffer,
                           const std::function<bool(const ParameterSpec&)>& is_trainable) {
  const Lookup view = [&](const std::string& name) {
    const ParameterSpec* spec = layout.Find(name);
    return spec == nullptr || !is_trainable(*spec) ? TensorView() : buffer.View(*spec);
  };
  ModelTensors tensors{.embedding = view("embedding.weight"),
                       .final_norm = view("final_norm.weight"),
                       .head = view(config.tie_embeddings ? "embedding.weight" : "head.weight"),
                       .layers = {}};
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    tensors.layers.push_back({.input_norm = view(prefix + "input_norm.weight"),
                              .post_norm = view(prefix + "post_norm.weight"),
                              .mixer = BindMixer(view, prefix + "mixer."),
                              .candidate = BindMixer(view, prefix + "candidate."),
                              .mlp = {.gate = view(prefix + "mlp.gate.weight"),
                                      .up = view(prefix + "mlp.up.weight"),
                                      .down = view(prefix + "mlp.down.weight")}});
  }
  return tensors;
}

ModelTensors BindTensors(const ModelConfig& config, const ParameterLayout& layout,
                         const ParameterBuffer& buffer) {
  return BindTrainable(config, layout, buffer, [](const ParameterSpec&) { return true; });
}

}  // namespace salamander
