// The parts that both kinds of mixer share: into queries, keys and values, and out through gate and
// output projection.
#ifndef MODEL_LAYERS_PROJECTIONS_H_
#define MODEL_LAYERS_PROJECTIONS_H_

#include "absl/status/status.h"

#include "model/layers/mixer.h"

namespace salamander {

// Of the heads that the rank holds.
struct ProjectionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  double norm_epsilon = 1e-6;
};

// A mixer's heads on this rank are those of its weights.
ProjectionShape ShapeOf(const MixerTensors& weights, int64_t head_dim, double norm_epsilon);

// Gradients with respect to what the attention reads.
struct QkvGradients {
  TensorView query, key, value;  // [T, H, D], [T, Hkv, D]; overwritten on the way back
};

// saved.query, key, value = the projections of input, with per-head norm where the weights have one
// and RoPE where the pass has tables.
absl::Status ProjectQkv(const MixerPass& pass, const ProjectionShape& shape,
                        const MixerTensors& weights, TensorView input, MixerActivations& saved);

// Adds weight gradients, and adds to d_input (unless empty).
struct ProjectQkvBackwardArgs {
  const ProjectionShape& shape;
  const MixerTensors& weights;
  const MixerTensors& gradients;
  TensorView input;
  const MixerActivations& saved;
  QkvGradients d;
  TensorView d_input;
};
absl::Status ProjectQkvBackward(const MixerPass& pass, const ProjectQkvBackwardArgs& args);

// output = (mixed * sigmoid(gate(input))) projected; mixed [T, H*D] is what attention and output
// norm gave.
absl::Status ProjectOutput(const MixerPass& pass, const MixerTensors& weights, TensorView input,
                           TensorView mixed, TensorView output, MixerActivations& saved);

// d_mixed [T, H*D] and d_input are overwritten (d_input with the gate's part, zero without a gate);
// d_input may be empty.
struct ProjectOutputBackwardArgs {
  const MixerTensors& weights;
  const MixerTensors& gradients;
  TensorView input;
  TensorView mixed;
  const MixerActivations& saved;
  TensorView d_output;
  TensorView d_mixed;
  TensorView d_input;
};
absl::Status ProjectOutputBackward(const MixerPass& pass, const ProjectOutputBackwardArgs& args);

}  // namespace salamander

#endif  // MODEL_LAYERS_PROJECTIONS_H_
