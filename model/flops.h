// The floating-point operations that a model's mathematics asks for over a packed stream, exactly:
// causal lengths per document, selected blocks where attention is sparse. What a kernel computes
// beyond that (masked halves of tiles, recomputation) is not counted, so a rate made from these is
// model FLOP/s and its share of the machine's peak is MFU. A multiply and an add are two.
#ifndef MODEL_FLOPS_H_
#define MODEL_FLOPS_H_

#include "kernels/base/segments.h"
#include "model/config.h"
#include "model/model_tensors.h"

namespace salamander {

// Of one forward pass, by what spends them.
struct ModelFlops {
  double projections = 0;  // query, key, value, gate, output
  double mlp = 0;
  double head = 0;
  double dense_attention = 0;   // 4 H D a visible (query, key) pair
  double sparse_attention = 0;  // the same over the keys of selected blocks
  double block_selection = 0;   // 2 H D a visible (query, pooled key) pair; no backward
  double lightning = 0;  // (4 D^2 + 128 D) H a token: state, and the causal half of chunks of 64

  double total() const {
    return projections + mlp + head + dense_attention + sparse_attention + block_selection +
           lightning;
  }
  ModelFlops& operator+=(const ModelFlops& other);
};

// Every layer's own mixer; candidates are not counted.
ModelFlops ForwardFlops(const ModelConfig& config, Segments segments);

// One layer's Lightning mixer over `tokens` tokens: of a layer, or of a candidate being aligned.
ModelFlops LightningMixerFlops(const ModelConfig& config, int64_t tokens);

// Forward and backward, where `gradients` says which weights train: a product has one of its size
// in the backward for its input and, where its weight trains, another; attention two; the selection
// of blocks none. The whole model's, also where a rank's gradients are parts.
double TrainingFlops(const ModelConfig& config, const ModelFlops& forward,
                     const ModelTensors& gradients, int64_t tokens);

// Of the products that make a mixer's weights' gradients.
double WeightGradientFlops(const ModelConfig& config, MixerKind kind, const MixerTensors& gradients,
                           int64_t tokens);

// Keys that the query at `position` of its document reads where its list is full: all of
// selected_blocks blocks but what lies behind it in its own.
int64_t SelectedKeys(const SparseConfig& sparse, int64_t position);

}  // namespace salamander

#endif  // MODEL_FLOPS_H_
