// A tiny hybrid that learns sequences of unequal weight, step by step.
#ifndef TESTS_TRAINER_STEP_PROBLEM_H_
#define TESTS_TRAINER_STEP_PROBLEM_H_

#include <memory>

#include "model/parallel/communicator.h"
#include "tests/model/tiny_model.h"
#include "tests/support/test_context.h"
#include "trainer/step/train_step.h"

namespace salamander {

struct StepOverride {
  SequenceAt sequence_at = {};
  const Objective* objective = nullptr;
  const ParallelContext* parallel = nullptr;  // of whole models
};

class StepProblem {
 public:
  // On one rank, or shared out over the data and context ranks of a world, which outlives the
  // problem: all of them data ranks unless told.
  StepProblem() : StepProblem(nullptr, {}) {}
  explicit StepProblem(Communicator& world) : StepProblem(world, {.data = world.size()}) {}
  StepProblem(Communicator& world, const MeshShape& shape) : StepProblem(&world, shape) {}

  // 32 tokens: two documents, some targets masked, and padding, so that no two sequences count the
  // same.
  static PackedStream Sequence(int64_t n);

  // Next-token loss on Sequence, unless overridden.
  absl::StatusOr<StepResult> Step(int64_t first_sequence, const BatchShape& batch,
                                  const StepOverride& instead = {});

  const Transformer& model() const { return model_; }
  const ParameterBuffer& weights() const { return weights_; }
  // After a step: the sum over all ranks, of the elements of this rank's shard.
  const ParameterBuffer& gradients() const { return gradients_; }
  const ParallelContext& parallel() const { return parallel_; }
  Optimizer& optimizer() { return optimizer_; }

 private:
  StepProblem(Communicator* world, const MeshShape& shape);

  ScopedThreadCount threads_{1};  // the work is too small to share
  TestContext context_;
  std::unique_ptr<Communicator> alone_;
  ParallelContext parallel_;
  ParameterLayout layout_;
  ParameterBuffer weights_;
  Transformer model_;
  ParameterBuffer gradients_;
  ModelTensors gradient_views_;
  Optimizer optimizer_;
  std::unique_ptr<Objective> objective_;
  std::unique_ptr<Replay> micro_batch_ = CpuSession().NewReplay();
};

}  // namespace salamander

#endif  // TESTS_TRAINER_STEP_PROBLEM_H_
