// A model on the device for work that is timed and thrown away: every weight from
// Normal(0, initializer_range), norms too.
#ifndef TRAINER_BENCH_RANDOM_MODEL_H_
#define TRAINER_BENCH_RANDOM_MODEL_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"

#include "kernels/base/arena.h"
#include "kernels/device.h"
#include "model/parameters.h"
#include "model/transformer.h"

namespace salamander {

class RandomModel {
 public:
  // Weights take memory of the session's; what is staged on the way is given back to `scratch`.
  static absl::StatusOr<RandomModel> Create(const ModelConfig& config, DeviceSession& session,
                                            Arena& scratch);

  const Transformer& transformer() const { return transformer_; }
  const ModelConfig& config() const { return transformer_.config(); }
  const ParameterLayout& layout() const { return layout_; }

 private:
  RandomModel(ParameterLayout layout, ParameterBuffer weights, Transformer transformer)
      : layout_(std::move(layout)),
        weights_(std::move(weights)),
        transformer_(std::move(transformer)) {}

  ParameterLayout layout_;
  ParameterBuffer weights_;
  Transformer transformer_;
};

// "2 sparse + 6 Lightning layers"
std::string LayersText(const ModelConfig& config);

}  // namespace salamander

#endif  // TRAINER_BENCH_RANDOM_MODEL_H_
