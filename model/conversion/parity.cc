#include "model/conversion/parity.h"

#include <cmath>

#include "kernels/base/status_macros.h"
#include "kernels/layer_mse.h"

namespace salamander {

double LayerParity::cosine() const {
  const double norms = std::sqrt(output * target);
  return norms > 0 ? product / norms : 0.0;
}

double LayerParity::relative_error() const {
  return target > 0 ? std::sqrt(squared_error / target) : 0.0;
}

absl::Status AddCandidateParity(const Transformer& model, const ForwardPass& pass,
                                std::vector<LayerParity>& layers) {
  const ExecutionContext& execution = *pass.execution;
  const ArenaScope scope(*execution.arena);
  ForwardPass tapped = pass;
  tapped.tap = [&](const MixerCall& call) -> absl::Status {
    if (!model.config().layers[static_cast<size_t>(call.layer)].has_candidate)
      return absl::OkStatus();
    const ArenaScope layer_scope(*execution.arena);
    const TensorView output =
        execution.arena->Tensor(call.output.dtype(), {call.output.dim(0), call.output.dim(1)});
    MixerActivations discarded;
    RETURN_IF_ERROR(
        model.candidate(call.layer).Forward(call.candidate_pass, call.input, output, discarded));
    LayerParity sums;
    RETURN_IF_ERROR(LayerMse(execution, {.output = output,
                                         .target = call.output,
                                         .row_weights = {},
                                         .d_output = {},
                                         .loss_sum = &sums.squared_error,
                                         .target_sum = &sums.target,
                                         .product_sum = &sums.product,
                                         .output_sum = &sums.output}));
    LayerParity& layer = layers[static_cast<size_t>(call.layer)];
    layer.squared_error += sums.squared_error;
    layer.product += sums.product;
    layer.output += sums.output;
    layer.target += sums.target;
    return absl::OkStatus();
  };
  return model.Forward(tapped, nullptr).status();
}

}  // namespace salamander
