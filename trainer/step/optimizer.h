// AdamW over a model's trainable parameters: fp32 masters and moments, parameter groups with their
// own learning-rate multiplier and decay, clipping by the global norm.
#ifndef TRAINER_STEP_OPTIMIZER_H_
#define TRAINER_STEP_OPTIMIZER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "model/parameters.h"

namespace salamander {

struct AdamWHyperparameters {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double clip_norm = 1.0;  // of the global gradient; 0 does not clip
};

// What a parameter's group asks for.
struct ParameterPolicy {
  bool is_trainable = true;
  double learning_rate_multiplier = 1.0;
  double weight_decay = 0.0;
};
using PolicyOf = std::function<ParameterPolicy(const ParameterSpec&)>;

class Optimizer {
 public:
  // Moments for every parameter of the layout on the session's device, zero; which of them move is
  // the stage's matter.
  static absl::StatusOr<Optimizer> Create(const ParameterLayout& layout, DeviceSession& session);

  // The stage's choice: hyperparameters, and a policy for each parameter.
  void Configure(const AdamWHyperparameters& hyperparameters, const PolicyOf& policy);

  // Zero moments and step count: `optimizer_state: reset`.
  absl::Status Reset(const ExecutionContext& execution);

  struct Update {
    double gradient_norm = 0.0;  // before clipping
    bool is_finite = true;       // false: nothing was changed
  };
  // What a step reads and changes, all of one layout and on the device.
  struct Buffers {
    const ParameterBuffer& weights;            // fp32 masters
    const ParameterBuffer& gradients;          // fp32
    const ParameterBuffer* rounded = nullptr;  // bf16, receives the new weights; or null
  };
  // One step. A norm that is not finite leaves everything as it was. Waits at its end.
  absl::StatusOr<Update> Step(const ExecutionContext& execution, double learning_rate,
                              const Buffers& buffers);

  int64_t step() const { return step_; }
  void set_step(int64_t step) { step_ = step; }
  const ParameterBuffer& first_moment() const { return first_moment_; }
  const ParameterBuffer& second_moment() const { return second_moment_; }

 private:
  Optimizer(const ParameterLayout& layout, ParameterBuffer first_moment,
            ParameterBuffer second_moment)
      : layout_(&layout),
        first_moment_(std::move(first_moment)),
        second_moment_(std::move(second_moment)) {}

  const ParameterLayout* layout_;
  ParameterBuffer first_moment_, second_moment_;
  AdamWHyperparameters hyperparameters_;
  std::vector<ParameterPolicy> policies_;  // one a parameter, in layout order
  int64_t step_ = 0;                       // updates since the moments were zero
};

}  // namespace salamander

#endif  // TRAINER_STEP_OPTIMIZER_H_
