#include "trainer/evaluate/token_scores.h"

#include <array>
#include <cmath>

#include "kernels/base/status_macros.h"
#include "kernels/head_loss.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

absl::Status AddStream(const Scored& scored, PackedStream& stream, TokenScores& scores) {
  const ExecutionContext& execution = scored.execution;
  const ArenaScope scope(*execution.arena);
  ForwardPass pass = PassOver(execution, stream);
  pass.use_candidate = scored.use_candidate;
  ASSIGN_OR_RETURN(const TensorView hidden, scored.model.Forward(pass, nullptr));
  const TensorView losses = execution.arena->Tensor(DType::kFloat32, {stream.size()});
  const TensorView predictions = execution.arena->Tensor(DType::kInt32, {stream.size()});
  double loss = 0.0;
  RETURN_IF_ERROR(HeadCrossEntropy(
      execution, {.hidden = hidden,
                  .head = scored.model.weights().head,
                  .logit_scale = scored.model.config().logit_scale,
                  .targets = TensorView::Of(stream.targets.data(), {stream.size()}),
                  .loss_weights = TensorView::Of(stream.loss_weights.data(), {stream.size()}),
                  .gradients = {},
                  .token_losses = losses,
                  .predictions = predictions,
                  .loss_sum = &loss}));
  for (int64_t row = 0; row < stream.size(); ++row) {
    const auto weight = static_cast<double>(stream.loss_weights[static_cast<size_t>(row)]);
    if (weight == 0.0) continue;
    const bool right = predictions.data<int32_t>()[row] == stream.targets[static_cast<size_t>(row)];
    scores.weight += weight;
    scores.probability_sum += weight * std::exp(-static_cast<double>(losses.data<float>()[row]));
    scores.correct_sum += right ? weight : 0.0;
  }
  scores.loss_sum += loss;
  return absl::OkStatus();
}

absl::StatusOr<TokenScores> ScoreShare(const Scored& scored, const StreamAt& stream_at,
                                       int64_t count, const Communicator& ranks) {
  TokenScores scores;
  for (int64_t index = ranks.rank(); index < count; index += ranks.size()) {
    ASSIGN_OR_RETURN(PackedStream stream, stream_at(index));
    RETURN_IF_ERROR(AddStream(scored, stream, scores));
  }
  return scores;
}

}  // namespace

absl::StatusOr<TokenScores> ScoreStreams(const Scored& scored, const StreamAt& stream_at,
                                         int64_t count, Communicator& ranks) {
  const auto share = ScoreShare(scored, stream_at, count, ranks);
  RETURN_IF_ERROR(AgreeOnStatus(ranks, share.status()));
  std::array<double, 4> sums = {share->weight, share->loss_sum, share->probability_sum,
                                share->correct_sum};
  RETURN_IF_ERROR(ranks.AllReduceSum(absl::MakeSpan(sums)));
  if (!(sums[0] > 0)) {
    return absl::FailedPreconditionError(
        "the evaluation set has no target to score; check its loss masks and its length");
  }
  return TokenScores{sums[0], sums[1], sums[2], sums[3]};
}

}  // namespace salamander
