#include "trainer/step/train_step.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// This rank's sequences of the batch, cut into micro-batches.
absl::StatusOr<std::vector<PackedStream>> ReadMicroBatches(const SequenceAt& sequence_at,
                                                           int64_t first, int64_t count,
                                                           int64_t sequences_per_micro) {
  std::vector<PackedStream> micro_batches;
  for (int64_t begin = 0; begin < count; begin += sequences_per_micro) {
    std::vector<PackedStream> sequences;
    for (int64_t index = begin; index < std::min(begin + sequences_per_micro, count); ++index) {
      ASSIGN_OR_RETURN(PackedStream sequence, sequence_at(first + index));
      sequences.push_back(std::move(sequence));
    }
    micro_batches.push_back(Concatenate(sequences));
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
    RETURN_IF_ERROR(resources.micro_batch.Run(accumulate));
  }
  double sum = 0.0;
  RETURN_IF_ERROR(CopyToHost(execution, loss_sum, &sum));
  return sum * objective.loss_unit();
}

}  // namespace

absl::StatusOr<StepResult> RunTrainStep(const StepResources& resources, const Objective& objective,
                                        const SequenceAt& sequence_at, int64_t first_sequence,
                                        const BatchShape& batch, double learning_rate) {
  Communicator& ranks = resources.data_ranks;
  const int64_t share = batch.sequences / ranks.size();
  SALAMANDER_CHECK(share * ranks.size() == batch.sequences)
      << batch.sequences << " sequences on " << ranks.size() << " ranks";
  auto read = ReadMicroBatches(sequence_at, first_sequence + ranks.rank() * share, share,
                               batch.sequences_per_micro);
  RETURN_IF_ERROR(AgreeOnStatus(ranks, read.status()));
  const std::vector<PackedStream> micro_batches = *std::move(read);

  std::array<double, 2> weights = {SumRowWeights(objective, micro_batches), 0.0};
  for (const PackedStream& stream : micro_batches)
    weights[1] += objective.Flops(stream, resources.gradient_views);
  RETURN_IF_ERROR(ranks.AllReduceSum(absl::MakeSpan(weights)));
  if (!(weights[0] > 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat("sequences ", first_sequence, " to ", first_sequence + batch.sequences - 1,
                     " hold no token to learn from; check the loss masks of the data"));
  }

  const auto sum = AccumulateAll(resources, objective, micro_batches, 1.0 / weights[0]);
  // A rank that fails sends no gradients, and the others must not wait for them.
  RETURN_IF_ERROR(AgreeOnStatus(ranks, sum.status()));
  std::array<double, 1> loss = {*sum};
  RETURN_IF_ERROR(ranks.AllReduceSum(absl::MakeSpan(loss)));
  RETURN_IF_ERROR(ranks.AllReduceSum(resources.gradients.Flat()));

  // Every rank sees the same sums, so every rank takes the same branch.
  StepResult result{.loss = loss[0] / weights[0], .row_weights = weights[0], .flops = weights[1]};
  result.is_finite = std::isfinite(result.loss);
  if (!result.is_finite) return result;
  ASSIGN_OR_RETURN(const Optimizer::Update update,
                   resources.optimizer.Step(resources.execution, learning_rate,
                                            {.weights = resources.weights,
                                             .gradients = resources.gradients,
                                             .rounded = resources.rounded}));
  result.gradient_norm = update.gradient_norm;
  result.is_finite = update.is_finite;
  return result;
}

}  // namespace salamander
