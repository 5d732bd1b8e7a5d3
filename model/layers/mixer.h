// What a layer uses to let tokens see each other. Two kinds: softmax attention (dense or sparse)
// and Lightning. Under tensor parallelism a mixer has the rank's heads of every token; H and Hkv
// below count those.
//   u -> query, key, value projections -> (per-head norm, RoPE) -> attention -> (output norm) ->
//   (sigmoid gate) -> output
#ifndef MODEL_LAYERS_MIXER_H_
#define MODEL_LAYERS_MIXER_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "model/decode_cache.h"
#include "model/layers/rope.h"
#include "model/model_tensors.h"
#include "model/parallel/parallel_context.h"

namespace salamander {

// What a call to a mixer needs besides its input.
struct MixerPass {
  const ExecutionContext* execution = nullptr;
  Segments segments;
  RotaryTables rope;                  // for this mixer's head dimension; empty where it has no RoPE
  const LayerCache* cache = nullptr;  // generation: keys reach back and states go on
  const ParallelContext* parallel = nullptr;  // null: one rank holds all heads and every token
};

// The ranks that hold slices of the pass's stream, in their order; null where one holds all of it.
inline Communicator* ContextRanks(const MixerPass& pass) {
  const bool is_sliced = pass.parallel != nullptr && pass.parallel->context().size() > 1;
  return is_sliced ? &pass.parallel->context() : nullptr;
}

// Saved by the forward for the backward. Views into the arena; empty where a mixer has no such
// part.
struct MixerActivations {
  TensorView query_projected, key_projected;      // [T, H, D], [T, Hkv, D] before the per-head norm
  TensorView query_inverse_rms, key_inverse_rms;  // [T, H], [T, Hkv] in the StatisticsType
  TensorView query, key, value;                   // as the attention reads them
  TensorView attention;                           // [T, H, D] what the attention gives
  TensorView logsumexp;                           // [T, H] softmax, in the StatisticsType
  TensorView blocks;                              // [T, Hkv, N] sparse
  TensorView states;                              // [2, H, D, D] Lightning on a slice
  TensorView normed, output_inverse_rms;          // [T, H*D], [T] after the output norm
  TensorView gate;                                // [T, H*D] before the sigmoid
  TensorView gated;                               // [T, H*D] input of the output projection
};

class Mixer {
 public:
  virtual ~Mixer() = default;

  // output [T, C] = mixer(input [T, C]), or the rank's heads' part of it. `saved` receives views of
  // what the backward needs. `output` may be `input`.
  virtual absl::Status Forward(const MixerPass& pass, TensorView input, TensorView output,
                               MixerActivations& saved) const = 0;

  // Adds to the gradients that are not empty views. d_input [T, C], or the rank's heads' part of
  // it, is overwritten and may be d_output; empty: not wanted.
  virtual absl::Status Backward(const MixerPass& pass, TensorView input,
                                const MixerActivations& saved, TensorView d_output,
                                TensorView d_input, const MixerTensors& gradients) const = 0;
};

}  // namespace salamander

#endif  // MODEL_LAYERS_MIXER_H_
