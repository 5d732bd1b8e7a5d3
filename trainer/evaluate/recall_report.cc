#include "trainer/evaluate/recall_report.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

bool SameCell(const RecallCell& a, const RecallCell& b) {
  return a.length == b.length && a.depth == b.depth;
}

}  // namespace

absl::StatusOr<std::vector<RecallRow>> MeasureRecall(const Scored& scored,
                                                     const RecallEvaluation& evaluation,
                                                     const ScoringRanks& ranks,
                                                     const StreamShare& share) {
  std::vector<RecallRow> rows;
  for (int64_t begin = 0; begin < evaluation.size();) {
    int64_t end = begin + 1;
    while (end < evaluation.size() && SameCell(evaluation.Cell(end), evaluation.Cell(begin))) ++end;
    const auto sample = [&](int64_t index) -> absl::StatusOr<PackedStream> {
      auto stream = evaluation.Sample(begin + index);
      return stream.ok() && share ? share(*std::move(stream)) : stream;
    };
    ASSIGN_OR_RETURN(const TokenScores scores, ScoreStreams(scored, sample, end - begin, ranks));
    rows.push_back({evaluation.Cell(begin), scores});
    begin = end;
  }
  return rows;
}

}  // namespace salamander
