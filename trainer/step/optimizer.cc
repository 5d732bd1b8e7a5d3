#include "trainer/step/optimizer.h"

#include <cmath>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/shared_gradients.h"
#include "trainer/step/replica_exchange.h"

namespace salamander {

Optimizer::Optimizer(const ParameterLayout& layout, ShardLayout shard, Arena memory,
                     bool has_masters)
    : layout_(&layout), shard_(std::move(shard)), memory_(std::move(memory)) {
  const auto state = [this] { return memory_.Tensor(DType::kFloat32, {shard_.size()}); };
  first_moment_ = state();
  second_moment_ = state();
  if (has_masters) masters_ = state();
}

absl::StatusOr<Optimizer> Optimizer::Create(const ParameterLayout& layout, ShardLayout shard,
                                            DeviceSession& session) {
  const bool has_masters = session.activation_dtype() != DType::kFloat32;
  const int64_t tensor_bytes =
      shard.size() * static_cast<int64_t>(SizeOf(DType::kFloat32)) + Arena::kAlignment;
  ASSIGN_OR_RETURN(Arena memory, session.Reserve((has_masters ? 3 : 2) * tensor_bytes));
  return Optimizer(layout, std::move(shard), std::move(memory), has_masters);
}

void Optimizer::Configure(const AdamWHyperparameters& hyperparameters, const PolicyOf& policy) {
  hyperparameters_ = hyperparameters;
  policies_.clear();
  for (const ParameterSpec& spec : layout_->specs()) policies_.push_back(policy(spec));
  trained_buckets_.clear();
  for (const ShardLayout::Bucket& bucket : shard_.buckets()) {
    if (HoldsTrainable(bucket)) trained_buckets_.push_back(bucket);
  }
}

// By what all ranks' parts hold, so that all ranks agree.
bool Optimizer::HoldsTrainable(const ShardLayout::Bucket& bucket) const {
  const int64_t end = bucket.begin + bucket.part * shard_.ranks();
  const absl::Span<const ParameterSpec> specs = layout_->specs();
  for (size_t index = 0; index < specs.size(); ++index) {
    const ParameterSpec& spec = specs[index];
    if (policies_[index].is_trainable && spec.offset < end &&
        spec.offset + spec.size() > bucket.begin)
      return true;
  }
  return false;
}

absl::Status Optimizer::Reset(const ExecutionContext& execution) {
  step_ = 0;
  RETURN_IF_ERROR(Zero(execution, first_moment_));
  return Zero(execution, second_moment_);
}

TensorView Optimizer::Masters(const ParameterBuffer& weights,
                              const ShardLayout::Piece& piece) const {
  return masters_.empty() ? weights.Flat().Rows(piece.flat_begin, piece.count)
                          : masters_.Rows(piece.shard_begin, piece.count);
}

std::vector<AdamWTensor> Optimizer::Tensors(double learning_rate, const Buffers& buffers) const {
  std::vector<AdamWTensor> tensors;
  for (const ShardLayout::Piece& piece : shard_.pieces()) {
    const ParameterPolicy& policy = policies_[piece.parameter];
    if (!policy.is_trainable) continue;
    tensors.push_back({.weight = Masters(buffers.weights, piece),
                       .gradient = buffers.gradients.Flat().Rows(piece.flat_begin, piece.count),
                       .first_moment = first_moment_.Rows(piece.shard_begin, piece.count),
                       .second_moment = second_moment_.Rows(piece.shard_begin, piece.count),
                       .rounded = masters_.empty()
                                      ? TensorView()
                                      : buffers.weights.Flat().Rows(piece.flat_begin, piece.count),
                       .learning_rate = learning_rate * policy.learning_rate_multiplier,
                       .weight_decay = policy.weight_decay});
  }
  return tensors;
}

// Each element of the whole model once: of those that several tensor ranks hold, the first counts.
absl::Status Optimizer::SumSquares(const ExecutionContext& execution,
                                   const ParameterBuffer& gradients,
                                   const ParallelContext* parallel,
                                   const TensorView& squares) const {
  std::vector<TensorView> counted;
  for (const ShardLayout::Piece& piece : shard_.pieces()) {
    if (!policies_[piece.parameter].is_trainable) continue;
    if (layout_->specs()[piece.parameter].holder != 0) continue;
    counted.push_back(gradients.Flat().Rows(piece.flat_begin, piece.count));
  }
  RETURN_IF_ERROR(SumOfSquares(execution, counted, squares));
  if (parallel == nullptr) return absl::OkStatus();
  for (Communicator* const ranks : {&parallel->replicas(), &parallel->tensor()}) {
    if (ranks->size() > 1) RETURN_IF_ERROR(ranks->AllReduceSum(squares));
  }
  return absl::OkStatus();
}

absl::StatusOr<Optimizer::Update> Optimizer::Step(const ExecutionContext& execution,
                                                  double learning_rate, const Buffers& buffers,
                                                  const ParallelContext* parallel) {
  SALAMANDER_CHECK(policies_.size() == layout_->specs().size()) << "Configure comes before Step";
  SALAMANDER_CHECK(shard_.ranks() == (parallel == nullptr ? 1 : parallel->replicas().size()))
      << "the optimizer is sharded for " << shard_.ranks() << " replicas";
  if (parallel != nullptr) {
    RETURN_IF_ERROR(
        SumShard(execution, trained_buckets_, parallel->replicas(), buffers.gradients.Flat()));
    RETURN_IF_ERROR(SumSharedGradients(execution, *layout_, shard_, buffers.gradients, *parallel));
  }
  const ArenaScope scope(*execution.arena);
  const TensorView squares = execution.arena->Tensor(DType::kFloat64, {1});
  RETURN_IF_ERROR(SumSquares(execution, buffers.gradients, parallel, squares));
  const std::vector<AdamWTensor> tensors = Tensors(learning_rate, buffers);
  RETURN_IF_ERROR(AdamWUpdate(execution, {.tensors = tensors,
                                          .beta1 = hyperparameters_.beta1,
                                          .beta2 = hyperparameters_.beta2,
                                          .epsilon = hyperparameters_.epsilon,
                                          .step = step_ + 1,
                                          .gradient_squares = squares,
                                          .clip_norm = hyperparameters_.clip_norm}));
  if (parallel != nullptr)
    RETURN_IF_ERROR(GatherShards(trained_buckets_, parallel->replicas(), buffers.weights.Flat()));
  double sum = 0.0;
  RETURN_IF_ERROR(CopyToHost(execution, squares, &sum));
  const Update update{.gradient_norm = std::sqrt(sum), .is_finite = std::isfinite(sum)};
  if (update.is_finite) ++step_;
  return update;
}

absl::Status Optimizer::SpreadMasters(const ExecutionContext& execution,
                                      const ParameterBuffer& weights,
                                      const ParallelContext* parallel) const {
  if (!masters_.empty()) {
    for (const ShardLayout::Piece& piece : shard_.pieces()) {
      RETURN_IF_ERROR(Convert(execution, Masters(weights, piece),
                              weights.Flat().Rows(piece.flat_begin, piece.count)));
    }
  }
  return parallel == nullptr ? absl::OkStatus()
                             : GatherShards(shard_.buckets(), parallel->replicas(), weights.Flat());
}

}  // namespace salamander
