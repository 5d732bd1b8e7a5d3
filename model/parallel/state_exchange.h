// How ranks that hold slices of one stream carry a Lightning layer's state across them. Slices are
// of n tokens each, in the order of ranks. With E_i the state that rank i's tokens of its last
// document leave behind them from zero, and D_i the gradient of the state before its first
// document's tokens where nothing comes back from later ranks (kernels/lightning_states.h):
//   start state of rank r                    sum_{i < r} exp(-slope n (r - 1 - i)) E_i
//   gradient of the state after rank r       sum_{i > r} exp(-slope n (i - 1 - r)) D_i
// where E_i and D_i count only if rank i's and rank r's ends of the gap between them lie in one
// document: every rank reads that off its own segments. One all-gather of a state [H, D, D] a
// layer, whatever n is; where every head forgets a slice, exp(-slope n) = 0 in the state's type
// (slope n > 104 in fp32), a state handed to the neighbour, however many ranks there are. Source:
// linear attention's sequence parallelism, arXiv 2404.02882, 2502.07563.
#ifndef MODEL_PARALLEL_STATE_EXCHANGE_H_
#define MODEL_PARALLEL_STATE_EXCHANGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "model/parallel/communicator.h"

namespace salamander {

// What a rank's slice sees of the documents that cross its edges.
struct SliceEdges {
  int rank = 0;
  int ranks = 1;
  int64_t tokens = 0;  // n
  int64_t before = 0;  // tokens that the first document has on earlier ranks
  int64_t behind = 0;  // tokens that the last one has on later ranks
};

// Segments cover the slice in order, as data/sequences/context_slice.h cuts them.
SliceEdges EdgesOf(Segments segments, int rank, int ranks);

// [ranks, H]: by what each rank's E is multiplied in the start state; zeros where the first
// document starts here.
std::vector<double> WeightsOfEarlier(const SliceEdges& edges, absl::Span<const double> slopes);

// [ranks, H]: by what each rank's D is multiplied in the gradient of the end state; zeros where the
// last document ends here.
std::vector<double> WeightsOfLater(const SliceEdges& edges, absl::Span<const double> slopes);

// Whether no state of the type outlives a slice: the same on every rank of a context group.
bool ForgetsSlices(DType dtype, absl::Span<const double> slopes, int64_t tokens);

enum class StateWay { kToLaterRanks, kToEarlierRanks };

// Collective: the start state from every rank's E, or the gradient of the end state from every
// rank's D. What no rank's weights count is sent and not read.
struct StateExchangeArgs {
  StateWay way;
  SliceEdges edges;
  absl::Span<const double> slopes;  // [H]
  TensorView mine;                  // [H, D, D]
  TensorView sum;                   // [H, D, D]
};
absl::Status ExchangeStates(const ExecutionContext& context, Communicator& ranks,
                            const StateExchangeArgs& args);

}  // namespace salamander

#endif  // MODEL_PARALLEL_STATE_EXCHANGE_H_
