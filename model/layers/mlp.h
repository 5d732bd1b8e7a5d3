// SwiGLU feed-forward: output = down(silu(gate(u)) * up(u)). Of a rank's part of the inner width F
// it gives a part of output and d_input; the ranks' parts add up.
#ifndef MODEL_LAYERS_MLP_H_
#define MODEL_LAYERS_MLP_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "model/model_tensors.h"

namespace salamander {

struct MlpActivations {
  TensorView gate, up;  // [T, F]
};

// output [T, C], may be `input`; empty: only what the backward needs is computed.
absl::Status MlpForward(const ExecutionContext& context, const MlpTensors& weights,
                        TensorView input, TensorView output, MlpActivations& saved);

struct MlpBackwardArgs {
  const MlpTensors& weights;
  const MlpTensors& gradients;  // added to, where not empty
  TensorView input;             // [T, C]
  const MlpActivations& saved;  // overwritten
  TensorView d_output;          // [T, C]
  TensorView d_input;           // [T, C], overwritten; may be d_output
};
absl::Status MlpBackward(const ExecutionContext& context, const MlpBackwardArgs& args);

}  // namespace salamander

#endif  // MODEL_LAYERS_MLP_H_
