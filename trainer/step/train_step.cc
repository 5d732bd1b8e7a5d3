#include "trainer/step/train_step.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "data/sequences/context_slice.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

// The sequences of this rank's data rank, cut into micro-batches.
absl::StatusOr<std::vector<PackedStream>> ReadMicroBatches(const SequenceAt& sequence_at,
                                                           int64_t first, int64_t count,
                                                           int64_t sequences_per_micro,
                                                           const ParallelContext& parallel) {
  std::vector<PackedStream> micro_batches;
  for (int64_t begin = 0; begin < count; begin += sequences_per_micro) {
    std::vector<PackedStream> sequences;
    for (int64_t index = begin; index < std::min(begin + sequences_per_micro, count); ++index) {
      ASSIGN_OR_RETURN(PackedStream sequence, sequence_at(first + index));
      sequences.push_back(std::move(sequence));
    }
    ASSIGN_OR_RETURN(PackedStream share, ShareOfContext(Concatenate(sequences), parallel));
    micro_batches.push_back(std::move(share));
  }
  return micro_batches;
}

double SumRowWeights(const Objective& objective, const std::vector<PackedStream>& micro_batches) {
  double sum = 0.0;
  for (const PackedStream& stream : micro_batches) {
    for (const float weight : objective.RowWeights(stream)) sum += static_cast<double>(weight);
  }
  return sum;
}

// This rank's loss sum; its gradients replace the resources'. Waits once, at the end.
absl::StatusOr<double> AccumulateAll(const StepResources& resources, const Objective& objective,
                                     const std::vector<PackedStream>& micro_batches,
                                     double gradient_scale) {
  const ExecutionContext& execution = resources.execution;
  const ArenaScope scope(*execution.arena);
  const TensorView loss_sum = execution.arena->Tensor(DType::kFloat64, {1});
  RETURN_IF_ERROR(Zero(execution, loss_sum));
  RETURN_IF_ERROR(Zero(execution, resources.gradients.Flat()));
  for (const PackedStream& stream : micro_batches) {
    const auto accumulate = [&] {
      return objective.Accumulate({.execution = execution,
                                   .stream = stream,
                                   .gradient_scale = gradient_scale,
                                   .gradients = &resources.gradient_views,
                                   .loss_sum = loss_sum});
    };
    RETURN_IF_ERROR(resources.parallel.has_collectives_in_passes()
                        ? accumulate()
                        : resources.micro_batch.Run(accumulate));
  }
  double sum = 0.0;
  RETURN_IF_ERROR(CopyToHost(execution, loss_sum, &sum));
  return sum * objective.loss_unit();
}

}  // namespace

absl::StatusOr<PackedStream> ShareOfContext(PackedStream stream, const ParallelContext& parallel) {
  if (parallel.context().size() == 1) return stream;
  return SliceOf(stream, parallel.context().rank(), parallel.context().size());
}

absl::StatusOr<StepResult> RunTrainStep(const StepResources& resources, const Objective& objective,
                                        const SequenceAt& sequence_at, int64_t first_sequence,
                                        const BatchShape& batch, double learning_rate) {
  const ParallelContext& parallel = resources.parallel;
  const Communicator& data = parallel.data();
  const int64_t share = batch.sequences / data.size();
  SALAMANDER_CHECK(share * data.size() == batch.sequences)
      << batch.sequences << " sequences on " << data.size() << " ranks";
  const auto before_reading = Clock::now();
  auto read = ReadMicroBatches(sequence_at, first_sequence + data.rank() * share, share,
                               batch.sequences_per_micro, parallel);
  double own_seconds = SecondsSince(before_reading);
  RETURN_IF_ERROR(AgreeOnStatus(parallel.world(), read.status()));
  const std::vector<PackedStream> micro_batches = *std::move(read);

  // Tensor ranks hold the same sums.
  std::array<double, 2> weights = {SumRowWeights(objective, micro_batches), 0.0};
  for (const PackedStream& stream : micro_batches)
    weights[1] += objective.Flops(stream, resources.gradient_views);
  RETURN_IF_ERROR(parallel.replicas().AllReduceSum(absl::MakeSpan(weights)));
  if (!(weights[0] > 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat("sequences ", first_sequence, " to ", first_sequence + batch.sequences - 1,
                     " hold no token to learn from; check the loss masks of the data"));
  }

  const auto before_passes = Clock::now();
  const double in_collectives = parallel.SecondsInPasses();
  const auto sum = AccumulateAll(resources, objective, micro_batches, 1.0 / weights[0]);
  own_seconds += SecondsSince(before_passes) - (parallel.SecondsInPasses() - in_collectives);
  // A rank that fails sends no gradients, and the others must not wait for them.
  RETURN_IF_ERROR(AgreeAfterPasses(&parallel, parallel.world(), sum.status()));
  std::array<double, 1> loss = {*sum};
  RETURN_IF_ERROR(parallel.replicas().AllReduceSum(absl::MakeSpan(loss)));

  // Every rank sees the same sums, so every rank takes the same branch.
  StepResult result{.loss = loss[0] / weights[0],
                    .row_weights = weights[0],
                    .own_seconds = own_seconds,
                    .flops = weights[1]};
  result.is_finite = std::isfinite(result.loss);
  if (!result.is_finite) return result;
  ASSIGN_OR_RETURN(
      const Optimizer::Update update,
      resources.optimizer.Step(resources.execution, learning_rate,
                               {.weights = resources.weights, .gradients = resources.gradients},
                               &parallel));
  result.gradient_norm = update.gradient_norm;
  result.is_finite = update.is_finite;
  return result;
}

}  // namespace salamander
