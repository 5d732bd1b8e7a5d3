#include "model/parallel/state_exchange.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "kernels/lightning_states.h"
#include "kernels/memory.h"

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

bool ForgetsSlices(DType dtype, absl::Span<const double> slopes, int64_t tokens) {
  return std::all_of(slopes.begin(), slopes.end(), [&](double slope) {
    const double decay = std::exp(-slope * static_cast<double>(tokens));
    return dtype == DType::kFloat64 ? decay == 0 : static_cast<float>(decay) == 0;
  });
}

absl::Status ExchangeStates(const ExecutionContext& context, Communicator& ranks,
                            const StateExchangeArgs& args) {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const bool to_later = args.way == StateWay::kToLaterRanks;
  const std::vector<double> weights = to_later ? WeightsOfEarlier(args.edges, args.slopes)
                                               : WeightsOfLater(args.edges, args.slopes);
  const TensorView mine =
      args.mine.Reshape({1, args.mine.dim(0), args.mine.dim(1), args.mine.dim(2)});
  const auto states = [&](int64_t count) {
    return arena.Tensor(mine.dtype(), {count, mine.dim(1), mine.dim(2), mine.dim(3)});
  };
  if (!ForgetsSlices(mine.dtype(), args.slopes, args.edges.tokens)) {
    const TensorView all = states(ranks.size());
    RETURN_IF_ERROR(ranks.AllGather(mine, all));
    return LightningStateSum(context, {.states = all, .weights = weights, .sum = args.sum});
  }
  const int step = to_later ? 1 : -1;
  const TensorView received = states(1);
  RETURN_IF_ERROR(ranks.Shift(mine, received, step));
  const int from = ranks.rank() - step;
  if (from < 0 || from >= ranks.size()) return Zero(context, args.sum);
  const size_t heads = args.slopes.size();
  return LightningStateSum(context,
                           {.states = received,
                            .weights = absl::MakeConstSpan(weights).subspan(from * heads, heads),
                            .sum = args.sum});
}

}  // namespace salamander
