#include "trainer/step/optimizer.h"

#include <cmath>
#include <utility>

#include "kernels/adamw.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {

absl::StatusOr<Optimizer> Optimizer::Create(const ParameterLayout& layout, DeviceSession& session) {
  ASSIGN_OR_RETURN(ParameterBuffer first_moment,
                   ParameterBuffer::Create(layout, DType::kFloat32, session));
  ASSIGN_OR_RETURN(ParameterBuffer second_moment,
                   ParameterBuffer::Create(layout, DType::kFloat32, session));
  return Optimizer(layout, std::move(first_moment), std::move(second_moment));
}

void Optimizer::Configure(const AdamWHyperparameters& hyperparameters, const PolicyOf& policy) {
  hyperparameters_ = hyperparameters;
  policies_.clear();
  for (const ParameterSpec& spec : layout_->specs()) policies_.push_back(policy(spec));
}

absl::Status Optimizer::Reset(const ExecutionContext& execution) {
  step_ = 0;
  RETURN_IF_ERROR(Zero(execution, first_moment_.Flat()));
  return Zero(execution, second_moment_.Flat());
}

absl::StatusOr<Optimizer::Update> Optimizer::Step(const ExecutionContext& execution,
                                                  double learning_rate, const Buffers& buffers) {
  SALAMANDER_CHECK(policies_.size() == layout_->specs().size()) << "Configure comes before Step";
  std::vector<AdamWTensor> tensors;
  std::vector<TensorView> trained;
  for (size_t index = 0; index < policies_.size(); ++index) {
    const ParameterPolicy& policy = policies_[index];
    if (!policy.is_trainable) continue;
    const ParameterSpec& spec = layout_->specs()[index];
    trained.push_back(buffers.gradients.View(spec));
    tensors.push_back(
        {.weight = buffers.weights.View(spec),
         .gradient = trained.back(),
         .first_moment = first_moment_.View(spec),
         .second_moment = second_moment_.View(spec),
         .rounded = buffers.rounded == nullptr ? TensorView() : buffers.rounded->View(spec),
         .learning_rate = learning_rate * policy.learning_rate_multiplier,
         .weight_decay = policy.weight_decay});
  }
  const ArenaScope scope(*execution.arena);
  const TensorView squares = execution.arena->Tensor(DType::kFloat64, {1});
  RETURN_IF_ERROR(SumOfSquares(execution, trained, squares));
  RETURN_IF_ERROR(AdamWUpdate(execution, {.tensors = tensors,
                                          .beta1 = hyperparameters_.beta1,
                                          .beta2 = hyperparameters_.beta2,
                                          .epsilon = hyperparameters_.epsilon,
                                          .step = step_ + 1,
                                          .gradient_squares = squares,
                                          .clip_norm = hyperparameters_.clip_norm}));
  double sum = 0.0;
  RETURN_IF_ERROR(CopyToHost(execution, squares, &sum));
  const Update update{.gradient_norm = std::sqrt(sum), .is_finite = std::isfinite(sum)};
  if (update.is_finite) ++step_;
  return update;
}

}  // namespace salamander
