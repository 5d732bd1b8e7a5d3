#include "trainer/bench/random_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "model/model_tensors.h"
#include "trainer/ceilings/random_tensors.h"

namespace salamander {

absl::StatusOr<RandomModel> RandomModel::Create(const ModelConfig& config, DeviceSession& session,
                                                Arena& scratch) {
  ParameterLayout layout(config);
  ASSIGN_OR_RETURN(ParameterBuffer weights,
                   ParameterBuffer::Create(layout, session.activation_dtype(), session));
  const ExecutionContext context = session.Context(scratch);
  RandomTensors random(context, scratch, session.activation_dtype());
  for (const ParameterSpec& spec : layout.specs())
    random.FillNormal(weights.View(spec), config.initializer_range);
  RETURN_IF_ERROR(random.status());
  Transformer transformer(config, BindTensors(config, layout, weights));
  return RandomModel(std::move(layout), std::move(weights), std::move(transformer));
}

std::string LayersText(const ModelConfig& config) {
  const auto softmax =
      std::count_if(config.layers.begin(), config.layers.end(),
                    [](const LayerConfig& layer) { return layer.mixer == MixerKind::kSoftmax; });
  return absl::StrCat(softmax, config.softmax.use_sparse ? " sparse + " : " dense + ",
                      config.layer_count() - softmax, " Lightning layers");
}

}  // namespace salamander
