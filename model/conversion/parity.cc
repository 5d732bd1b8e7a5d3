#include "model/conversion/parity.h"

#include <array>
#include <cmath>

#include "kernels/base/status_macros.h"
#include "kernels/layer_mse.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// Of a layer: the squared error and the three moments of LayerMse, in its order.
constexpr int64_t kSums = 4;

}  // namespace

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
  const auto count = static_cast<int64_t>(layers.size());
  const TensorView sums = execution.arena->Tensor(DType::kFloat64, {count, kSums});
  RETURN_IF_ERROR(Zero(execution, sums));
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
    const TensorView of_layer = sums.Rows(call.layer, 1).Reshape({kSums});
    return LayerMse(execution, {.output = output,
                                .target = call.output,
                                .row_weights = {},
                                .d_output = {},
                                .loss_sum = of_layer.Rows(0, 1),
                                .moments = of_layer.Rows(1, kSums - 1)});
  };
  RETURN_IF_ERROR(model.Forward(tapped, nullptr).status());
  std::vector<std::array<double, kSums>> read(layers.size());
  RETURN_IF_ERROR(CopyToHost(execution, sums, read.data()));
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const auto& [squared_error, target, product, output] = read[layer];
    layers[layer].squared_error += squared_error;
    layers[layer].target += target;
    layers[layer].product += product;
    layers[layer].output += output;
  }
  return absl::OkStatus();
}

}  // namespace salamander
