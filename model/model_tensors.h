// The parameters of a model by their place in it: weights, or gradients with the same structure (an
// empty view where a parameter is frozen, or where the model has none of that kind).
#ifndef MODEL_MODEL_TENSORS_H_
#define MODEL_MODEL_TENSORS_H_

#include <functional>
#include <vector>

#include "kernels/base/tensor_view.h"
#include "model/parameters.h"

namespace salamander {

struct MixerTensors {
  TensorView query, key, value;     // [H*D, C], [Hkv*D, C], [Hkv*D, C]
  TensorView output;                // [C, H*D]
  TensorView query_norm, key_norm;  // [D]
  TensorView output_norm;           // [H*D]
  TensorView gate;                  // [H*D, C]
};

struct MlpTensors {
  TensorView gate, up;  // [F, C]
  TensorView down;      // [C, F]
};

struct LayerTensors {
  TensorView input_norm, post_norm;  // [C]
  MixerTensors mixer;
  MixerTensors candidate;
  MlpTensors mlp;
};

struct ModelTensors {
  TensorView embedding;   // [V, C]
  TensorView final_norm;  // [C]
  TensorView head;        // [V, C]; the embedding where they are tied
  std::vector<LayerTensors> layers;
};

// Requires: `buffer` was created from `layout`.
ModelTensors BindTensors(const ModelConfig& config, const ParameterLayout& layout,
                         const ParameterBuffer& buffer);

// Only the parameters that `is_trainable` accepts; the others are empty views.
ModelTensors BindTrainable(const ModelConfig& config, const ParameterLayout& layout,
                           const ParameterBuffer& buffer,
                           const std::function<bool(const ParameterSpec&)>& is_trainable);

}  // namespace salamander

#endif  // MODEL_MODEL_TENSORS_H_
