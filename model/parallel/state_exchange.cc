#include "model/parallel/state_exchange.h"

#include <cmath>

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "kernels/lightning_states.h"

namespace salamander {
namespace {

// Of the ranks from this one's neighbour on, in direction `step`: as many as the document, of which
// `tokens` lie there, reaches. A slice between decays what crosses it by its length.
std::vector<double> Weights(const SliceEdges& edges, absl::Span<const double> slopes, int step,
                            int64_t tokens) {
  const size_t heads = slopes.size();
  std::vector<double> weights(static_cast<size_t>(edges.ranks) * heads, 0.0);
  int64_t between = 0;
  for (int rank = edges.rank + step; tokens > between; rank += step, between += edges.tokens) {
    SALAMANDER_CHECK(rank >= 0 && rank < edges.ranks)
        << "a document has " << tokens << " tokens beyond slice " << edges.rank << " of "
        << edges.ranks << " slices of " << edges.tokens;
    for (size_t head = 0; head < heads; ++head) {
      weights[static_cast<size_t>(rank) * heads + head] =
          std::exp(-slopes[head] * static_cast<double>(between));
    }
  }
  return weights;
}

}  // namespace

SliceEdges EdgesOf(Segments segments, int rank, int ranks) {
  SALAMANDER_CHECK(!segments.empty()) << "a slice of no tokens";
  const Segment& last = segments.back();
  return {.rank = rank,
          .ranks = ranks,
          .tokens = last.query_begin + last.query_count,
          .before = segments.front().first_position,
          .behind = last.document_length() - last.key_count()};
}

std::vector<double> WeightsOfEarlier(const SliceEdges& edges, absl::Span<const double> slopes) {
  return Weights(edges, slopes, -1, edges.before);
}

std::vector<double> WeightsOfLater(const SliceEdges& edges, absl::Span<const double> slopes) {
  return Weights(edges, slopes, 1, edges.behind);
}

absl::Status ExchangeStates(const ExecutionContext& context, Communicator& ranks,
                            const StateExchangeArgs& args) {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const TensorView all = arena.Tensor(
      args.mine.dtype(), {ranks.size(), args.mine.dim(0), args.mine.dim(1), args.mine.dim(2)});
  RETURN_IF_ERROR(ranks.AllGather(args.mine.Reshape({1, all.dim(1), all.dim(2), all.dim(3)}), all));
  return LightningStateSum(context, {.states = all, .weights = args.weights, .sum = args.sum});
}

}  // namespace salamander
