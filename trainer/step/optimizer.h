// AdamW over a model's trainable parameters: fp32 masters and moments, parameter groups with their
// own learning-rate multiplier and decay, clipping by the global norm. Ranks that hold the same
// weights share the state out: each keeps that of its shard, updates it, and gives it to the others
// (model/shard_layout.h).
#ifndef TRAINER_STEP_OPTIMIZER_H_
#define TRAINER_STEP_OPTIMIZER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/adamw.h"
#include "kernels/base/execution_context.h"
#include "model/parallel/parallel_context.h"
#include "model/parameters.h"
#include "model/shard_layout.h"

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
  // Moments for every element of the shard on the session's device, zero; which of them move is the
  // stage's matter. Masters, zero as well, where the device computes in less than fp32; elsewhere
  // the weights are their own. The layout outlives the optimizer.
  static absl::StatusOr<Optimizer> Create(const ParameterLayout& layout, ShardLayout shard,
                                          DeviceSession& session);
  // Of a rank that has the weights to itself.
  static absl::StatusOr<Optimizer> Create(const ParameterLayout& layout, DeviceSession& session) {
    return Create(layout, ShardLayout(layout, 0, 1), session);
  }

  // The stage's choice: hyperparameters, and a policy for each parameter, the same on all ranks.
  void Configure(const AdamWHyperparameters& hyperparameters, const PolicyOf& policy);

  // Zero moments and step count: `optimizer_state: reset`.
  absl::Status Reset(const ExecutionContext& execution);

  struct Update {
    double gradient_norm = 0.0;  // before clipping
    bool is_finite = true;       // false: nothing was changed
  };
  // What a step reads and changes, all of one layout and on the device.
  struct Buffers {
    const ParameterBuffer& weights;    // what the model's passes read
    const ParameterBuffer& gradients;  // fp32, of this rank's tokens; spent
  };
  // One step, by the gradients' sum over the replicas, and over the tensor ranks that hold the same
  // elements. A norm that is not finite leaves everything
  // as it was. Collective over the ranks of `parallel`; null: alone. Waits at its end.
  absl::StatusOr<Update> Step(const ExecutionContext& execution, double learning_rate,
                              const Buffers& buffers, const ParallelContext* parallel = nullptr);

  // All ranks' masters to all ranks' weights. Collective as Step is; waits for nothing.
  absl::Status SpreadMasters(const ExecutionContext& execution, const ParameterBuffer& weights,
                             const ParallelContext* parallel = nullptr) const;

  int64_t step() const { return step_; }
  void set_step(int64_t step) { step_ = step; }
  const ShardLayout& shard() const { return shard_; }
  // Of the shard, in its order.
  TensorView first_moment() const { return first_moment_; }
  TensorView second_moment() const { return second_moment_; }
  // A piece of the masters, wherever they are.
  TensorView Masters(const ParameterBuffer& weights, const ShardLayout::Piece& piece) const;

 private:
  Optimizer(const ParameterLayout& layout, ShardLayout shard, Arena memory, bool has_masters);

  absl::Status SumSquares(const ExecutionContext& execution, const ParameterBuffer& gradients,
                          const ParallelContext* parallel, const TensorView& squares) const;
  std::vector<AdamWTensor> Tensors(double learning_rate, const Buffers& buffers) const;
  bool HoldsTrainable(const ShardLayout::Bucket& bucket) const;

  const ParameterLayout* layout_;
  ShardLayout shard_;
  Arena memory_;
  TensorView first_moment_, second_moment_;  // [shard] fp32
  TensorView masters_;                       // the same; empty where the weights are fp32
  AdamWHyperparameters hyperparameters_;
  std::vector<ParameterPolicy> policies_;             // one a parameter, in layout order
  std::vector<ShardLayout::Bucket> trained_buckets_;  // that a step changes anything in
  int64_t step_ = 0;                                  // updates since the moments were zero
};

}  // namespace salamander

#endif  // TRAINER_STEP_OPTIMIZER_H_
