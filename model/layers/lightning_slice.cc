#include "model/layers/lightning_slice.h"

#include "kernels/base/status_macros.h"
#include "kernels/lightning_states.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

constexpr int32_t kStartSlot = 0, kEndSlot = 1, kSlots = 2;

}  // namespace

LightningSlice::LightningSlice(const MixerPass& pass, absl::Span<const double> slopes)
    : execution_(*pass.execution),
      ranks_(ContextRanks(pass)),
      slopes_(slopes),
      segments_(pass.segments.begin(), pass.segments.end()) {
  for (Segment& segment : segments_) segment.state_in = segment.state_out = -1;
  if (ranks_ == nullptr) return;
  edges_ = EdgesOf(segments_, ranks_->rank(), ranks_->size());
  if (edges_.before > 0) segments_.front().state_in = kStartSlot;
  if (edges_.behind > 0) segments_.back().state_out = kEndSlot;
}

absl::StatusOr<TensorView> LightningSlice::StartStates(TensorView key, TensorView value) const {
  if (ranks_ == nullptr) return TensorView();
  return Exchange(StateWay::kToLaterRanks,
                  {.key = key,
                   .value = value,
                   .scale = 1.0,
                   .piece = segments_.back(),
                   .is_awaited = edges_.behind > 0},
                  kStartSlot);
}

absl::StatusOr<TensorView> LightningSlice::EndGradients(TensorView query, TensorView d_out,
                                                        double scale) const {
  if (ranks_ == nullptr) return TensorView();
  return Exchange(StateWay::kToEarlierRanks,
                  {.key = query,
                   .value = d_out,
                   .scale = scale,
                   .piece = segments_.front(),
                   .is_awaited = edges_.before > 0},
                  kEndSlot);
}

absl::StatusOr<TensorView> LightningSlice::Exchange(StateWay way, const Share& share,
                                                    int32_t slot) const {
  Arena& arena = *execution_.arena;
  const DType dtype = StatisticsType(share.key.dtype());
  const int64_t heads = share.key.dim(1), dim = share.key.dim(2);
  const TensorView states = arena.Tensor(dtype, {kSlots, heads, dim, dim});
  const ArenaScope scope(arena);
  const TensorView mine = arena.Tensor(dtype, {heads, dim, dim});
  if (share.is_awaited) {
    const int64_t begin = share.piece.query_begin, count = share.piece.query_count;
    RETURN_IF_ERROR(LightningEndState(execution_, {.key = share.key.Rows(begin, count),
                                                   .value = share.value.Rows(begin, count),
                                                   .slopes = slopes_,
                                                   .scale = share.scale,
                                                   .reversed = way == StateWay::kToEarlierRanks,
                                                   .state = mine}));
  } else {
    RETURN_IF_ERROR(Zero(execution_, mine));
  }
  RETURN_IF_ERROR(ExchangeStates(execution_, *ranks_,
                                 {.way = way,
                                  .edges = edges_,
                                  .slopes = slopes_,
                                  .mine = mine,
                                  .sum = states.Rows(slot, 1).Reshape({heads, dim, dim})}));
  return states;
}

}  // namespace salamander
