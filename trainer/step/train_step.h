// One optimizer step on one rank: its share of the global batch through the objective, micro-batch
// by micro-batch, then one update of all ranks together. Data ranks take other sequences, context
// ranks the slices of the same ones, tensor ranks see the same tokens. The loss is the sum over the
// global batch divided by the global sum of row weights, so it does not depend on how many ranks or
// micro-batches the batch was cut into.
#ifndef TRAINER_STEP_TRAIN_STEP_H_
#define TRAINER_STEP_TRAIN_STEP_H_

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"

#include "data/sequences/packed_stream.h"
#include "kernels/device.h"
#include "model/parallel/parallel_context.h"
#include "trainer/step/objective.h"
#include "trainer/step/optimizer.h"

namespace salamander {

// Sequence n of the stage.
using SequenceAt = std::function<absl::StatusOr<PackedStream>(int64_t n)>;

// What this rank computes of a stream that its data rank reads: its context rank's slice.
absl::StatusOr<PackedStream> ShareOfContext(PackedStream stream, const ParallelContext& parallel);

struct BatchShape {
  int64_t sequences = 0;            // of the global batch; a multiple of the data ranks
  int64_t sequences_per_micro = 1;  // of one micro-batch on one rank
};

struct StepResult {
  double loss = 0.0;
  double gradient_norm = 0.0;
  double row_weights = 0.0;  // that the loss was divided by, over all ranks
  // Of this rank's reading and passes, without waiting for the others; but for NCCL's collectives
  // within a pass, which the device waits in.
  double own_seconds = 0.0;
  double flops = 0.0;     // model operations of the whole batch, over all ranks (model/flops.h)
  bool is_finite = true;  // false: loss or gradient was not, and no weight was changed, on any rank
};

struct StepResources {
  const ExecutionContext& execution;
  const ParallelContext& parallel;     // for tensors of the execution's device
  const ParameterBuffer& weights;      // what the model's passes read
  const ParameterBuffer& gradients;    // scratch: zeroed first
  const ModelTensors& gradient_views;  // the trainable part of it
  Optimizer& optimizer;
  // Through which each micro-batch without collectives is enqueued: those cut alike are one graph
  // on CUDA.
  Replay& micro_batch;
};

// Collective over the world of `parallel`. Sequences [first, first + batch.sequences) make the
// batch.
absl::StatusOr<StepResult> RunTrainStep(const StepResources& resources, const Objective& objective,
                                        const SequenceAt& sequence_at, int64_t first_sequence,
                                        const BatchShape& batch, double learning_rate);

}  // namespace salamander

#endif  // TRAINER_STEP_TRAIN_STEP_H_
