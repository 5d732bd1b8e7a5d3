// How well a model predicts the weighted targets of packed streams: the sums behind loss, accuracy
// and recall.
#ifndef TRAINER_EVALUATE_TOKEN_SCORES_H_
#define TRAINER_EVALUATE_TOKEN_SCORES_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "data/sequences/packed_stream.h"
#include "model/parallel/parallel_context.h"
#include "model/transformer.h"

namespace salamander {

struct TokenScores {
  double weight = 0.0;           // sum of loss weights
  double loss_sum = 0.0;         // weighted cross-entropy, nats
  double probability_sum = 0.0;  // weighted probability of the target
  double correct_sum = 0.0;      // weight of the rows whose largest logit is the target

  double loss() const { return loss_sum / weight; }
  double probability() const { return probability_sum / weight; }
  double accuracy() const { return correct_sum / weight; }
};

struct Scored {
  const ExecutionContext& execution;
  const Transformer& model;
  absl::Span<const bool> use_candidate = {};  // [layers]; empty: every layer's own mixer
  const ParallelContext* parallel = nullptr;  // whose rank the model's weights are; null: alone
};

// Stream i of an evaluation set.
using StreamAt = std::function<absl::StatusOr<PackedStream>(int64_t i)>;

// Who scores together. Ranks of `sharing` take streams in turn; `summed` is everyone whose rows add
// up; what fails on one of `all` fails on all, or ends the job (AgreeAfterPasses).
struct ScoringRanks {
  // Ranks that each hold the whole model.
  explicit ScoringRanks(Communicator& alike) : sharing(alike), summed(alike), all(alike) {}
  // Ranks of a mesh: streams for data ranks, this rank's slice of each from `stream_at`.
  explicit ScoringRanks(const ParallelContext& parallel)
      : sharing(parallel.data()), summed(parallel.replicas()), all(parallel.world()) {}

  Communicator& sharing;
  Communicator& summed;
  Communicator& all;
};

// Streams 0 to count - 1, shared out over the ranks; every rank gets the same sums. Collective.
// Fails where no target has weight.
absl::StatusOr<TokenScores> ScoreStreams(const Scored& scored, const StreamAt& stream_at,
                                         int64_t count, const ScoringRanks& ranks);
inline absl::StatusOr<TokenScores> ScoreStreams(const Scored& scored, const StreamAt& stream_at,
                                                int64_t count, Communicator& alike) {
  return ScoreStreams(scored, stream_at, count, ScoringRanks(alike));
}

}  // namespace salamander

#endif  // TRAINER_EVALUATE_TOKEN_SCORES_H_
