#include "trainer/step/optimizer.h"

#include <cmath>
#include <utility>

#include "kernels/adamw.h"
#include "kernels/base/status_macros.h"

namespace salamander {

absl::StatusOr<Optimizer> Optimizer::Create(const ParameterLayout& layout) {
  ASSIGN_OR_RETURN(ParameterBuffer first_moment, ParameterBuffer::Create(layout, DType::kFloat32));
  ASSIGN_OR_RETURN(ParameterBuffer second_moment, ParameterBuffer::Create(layout, DType::kFloat32));
  return Optimizer(layout, std::move(first_moment), std::move(second_moment));
}

void Optimizer::Configure(const AdamWHyperparameters& hyperparameters, const PolicyOf& policy) {
  hyperparameters_ = hyperparameters;
  policies_.clear();
  for (const ParameterSpec& spec : layout_->specs()) policies_.push_back(policy(spec));
}

void Optimizer::Reset() {
  first_moment_.Zero();
  second_moment_.Zero();
  step_ = 0;
}

absl::StatusOr<Optimizer::Update> Optimizer::Step(const ExecutionContext& execution,
                                                  double learning_rate,
                                                  const ParameterBuffer& weights,
                                                  const ParameterBuffer& gradients) {
  SALAMANDER_CHECK(policies_.size() == layout_->specs().size()) << "Configure comes before Step";
  std::vector<AdamWTensor> tensors;
  std::vector<TensorView> trained;
  for (size_t index = 0; index < policies_.size(); ++index) {
    const ParameterPolicy& policy = policies_[index];
    if (!policy.is_trainable) continue;
    const ParameterSpec& spec = layout_->specs()[index];
    trained.push_back(gradients.View(spec));
    tensors.push_back({.weight = weights.View(spec),
                       .gradient = trained.back(),
                       .first_moment = first_moment_.View(spec),
                       .second_moment = second_moment_.View(spec),
                       .learning_rate = learning_rate * policy.learning_rate_multiplier,
                       .weight_decay = policy.weight_decay});
  }
  double squares = 0.0;
  RETURN_IF_ERROR(SumOfSquares(execution, trained, &squares));
  Update update{.gradient_norm = std::sqrt(squares), .is_finite = std::isfinite(squares)};
  if (!update.is_finite) return update;
  const double clip = hyperparameters_.clip_norm;
  RETURN_IF_ERROR(AdamWUpdate(execution, {.tensors = tensors,
                                          .beta1 = hyperparameters_.beta1,
                                          .beta2 = hyperparameters_.beta2,
                                          .epsilon = hyperparameters_.epsilon,
                                          .step = ++step_,
                                          .gradient_scale = clip > 0 && update.gradient_norm > clip
                                                                ? clip / update.gradient_norm
                                                                : 1.0}));
  return update;
}

}  // namespace salamander
