#include "trainer/run/device_model.h"

#include "kernels/base/status_macros.h"
#include "trainer/run/model_file.h"

namespace salamander {
namespace {

bool IsOnHost(const Workspace& workspace) {
  return workspace.session().device().kind == DeviceKind::kCpu;
}

}  // namespace

absl::StatusOr<DeviceModel> DeviceModel::Of(const ModelWeights& weights,
                                            const Workspace& workspace) {
  if (IsOnHost(workspace)) return DeviceModel(std::nullopt, TransformerOf(weights));
  DeviceSession& session = workspace.session();
  ASSIGN_OR_RETURN(ParameterBuffer copy,
                   ParameterBuffer::Create(weights.layout, session.activation_dtype(), session));
  RETURN_IF_ERROR(CopyParameters(workspace.execution(), weights.buffer, copy));
  Transformer transformer(weights.config, BindTensors(weights.config, weights.layout, copy));
  return DeviceModel(std::move(copy), std::move(transformer));
}

absl::StatusOr<DeviceModel> DeviceModel::Taking(ModelWeights weights, const Workspace& workspace) {
  if (!IsOnHost(workspace)) return Of(weights, workspace);
  Transformer transformer = TransformerOf(weights);
  return DeviceModel(std::move(weights.buffer), std::move(transformer));
}

}  // namespace salamander
