// A model where a workspace's passes read it.
#ifndef TRAINER_RUN_DEVICE_MODEL_H_
#define TRAINER_RUN_DEVICE_MODEL_H_

#include <optional>
#include <utility>

#include "absl/status/statusor.h"

#include "model/conversion/transfer.h"
#include "model/transformer.h"
#include "trainer/run/workspace.h"

namespace salamander {

class DeviceModel {
 public:
  // Of weights that the host holds and whose owner needs them further: they outlive the model. On
  // the CPU it reads them where they are, elsewhere a copy in the device's dtype.
  static absl::StatusOr<DeviceModel> Of(const ModelWeights& weights, const Workspace& workspace);

  // Of weights that nobody else needs: where there is a copy, the host's are let go.
  static absl::StatusOr<DeviceModel> Taking(ModelWeights weights, const Workspace& workspace);

  const Transformer& transformer() const { return transformer_; }
  const ModelConfig& config() const { return transformer_.config(); }

 private:
  DeviceModel(std::optional<ParameterBuffer> buffer, Transformer transformer)
      : buffer_(std::move(buffer)), transformer_(std::move(transformer)) {}

  std::optional<ParameterBuffer> buffer_;  // none where the weights are another's
  Transformer transformer_;
};

}  // namespace salamander

#endif  // TRAINER_RUN_DEVICE_MODEL_H_
