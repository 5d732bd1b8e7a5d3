#include "trainer/evaluate/token_scores.h"

#include <array>
#include <cmath>
#include <optional>

#include "kernels/base/status_macros.h"
#include "kernels/head_loss.h"
#include "kernels/memory.h"
#include "model/parallel/sequence_shards.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

absl::Status AddStream(const Scored& scored, const PackedStream& stream, TokenScores& scores) {
  const ExecutionContext& execution = scored.execution;
  const ArenaScope scope(*execution.arena);
  ASSIGN_OR_RETURN(ForwardPass pass, PassOver(execution, stream, scored.parallel));
  pass.use_candidate = scored.use_candidate;
  ASSIGN_OR_RETURN(const TensorView own_rows, scored.model.Forward(pass, nullptr));
  ASSIGN_OR_RETURN(const TensorView hidden, GatheredRows(execution, scored.parallel, own_rows));
  const std::optional<VocabularySplit> split = SplitOver(scored.parallel);
  ASSIGN_OR_RETURN(const TensorView targets, FromHost<int32_t>(execution, stream.targets));
  ASSIGN_OR_RETURN(const TensorView weights, FromHost<float>(execution, stream.loss_weights));
  const TensorView token_losses = execution.arena->Tensor(DType::kFloat32, {stream.size()});
  const TensorView token_predictions = execution.arena->Tensor(DType::kInt32, {stream.size()});
  const TensorView loss_sum = execution.arena->Tensor(DType::kFloat64, {1});
  RETURN_IF_ERROR(Zero(execution, loss_sum));
  RETURN_IF_ERROR(HeadCrossEntropy(execution, {.hidden = hidden,
                                               .head = scored.model.weights().head,
                                               .logit_scale = scored.model.config().logit_scale,
                                               .targets = targets,
                                               .loss_weights = weights,
                                               .gradients = {},
                                               .token_losses = token_losses,
                                               .predictions = token_predictions,
                                               .loss_sum = loss_sum,
                                               .split = split.has_value() ? &*split : nullptr}));
  double loss = 0.0;
  std::vector<float> losses(stream.tokens.size());
  std::vector<int32_t> predictions(stream.tokens.size());
  RETURN_IF_ERROR(CopyToHost(execution, loss_sum, &loss));
  RETURN_IF_ERROR(CopyToHost(execution, token_losses, losses.data()));
  RETURN_IF_ERROR(CopyToHost(execution, token_predictions, predictions.data()));
  for (size_t row = 0; row < losses.size(); ++row) {
    const auto weight = static_cast<double>(stream.loss_weights[row]);
    if (weight == 0.0) continue;
    scores.weight += weight;
    scores.probability_sum += weight * std::exp(-static_cast<double>(losses[row]));
    scores.correct_sum += predictions[row] == stream.targets[row] ? weight : 0.0;
  }
  scores.loss_sum += loss;
  return absl::OkStatus();
}

absl::StatusOr<TokenScores> ScoreShare(const Scored& scored, const StreamAt& stream_at,
                                       int64_t count, const Communicator& ranks) {
  TokenScores scores;
  for (int64_t index = ranks.rank(); index < count; index += ranks.size()) {
    ASSIGN_OR_RETURN(const PackedStream stream, stream_at(index));
    RETURN_IF_ERROR(AddStream(scored, stream, scores));
  }
  return scores;
}

}  // namespace

absl::StatusOr<TokenScores> ScoreStreams(const Scored& scored, const StreamAt& stream_at,
                                         int64_t count, const ScoringRanks& ranks) {
  const auto share = ScoreShare(scored, stream_at, count, ranks.sharing);
  RETURN_IF_ERROR(AgreeAfterPasses(scored.parallel, ranks.all, share.status()));
  std::array<double, 4> sums = {share->weight, share->loss_sum, share->probability_sum,
                                share->correct_sum};
  RETURN_IF_ERROR(ranks.summed.AllReduceSum(absl::MakeSpan(sums)));
  if (!(sums[0] > 0)) {
    return absl::FailedPreconditionError(
        "the evaluation set has no target to score; check its loss masks and its length");
  }
  return TokenScores{sums[0], sums[1], sums[2], sums[3]};
}

}  // namespace salamander
