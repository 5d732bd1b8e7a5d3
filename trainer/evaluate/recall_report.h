// Recall by length and depth: how many of the answers are right, and how probable they are.
#ifndef TRAINER_EVALUATE_RECALL_REPORT_H_
#define TRAINER_EVALUATE_RECALL_REPORT_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"

#include "data/recall/recall.h"
#include "trainer/evaluate/token_scores.h"

namespace salamander {

struct RecallRow {
  RecallCell cell;
  TokenScores scores;
};

// What this rank scores of a sample; empty: all of it.
using StreamShare = std::function<absl::StatusOr<PackedStream>(PackedStream)>;

// One row a cell, in the set's order. Collective.
absl::StatusOr<std::vector<RecallRow>> MeasureRecall(const Scored& scored,
                                                     const RecallEvaluation& evaluation,
                                                     const ScoringRanks& ranks,
                                                     const StreamShare& share = {});

}  // namespace salamander

#endif  // TRAINER_EVALUATE_RECALL_REPORT_H_
