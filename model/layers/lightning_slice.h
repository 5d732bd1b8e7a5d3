// The states of a Lightning layer in training: every document starts from nothing, and where the
// stream is cut into slices that lie on several ranks, from what its tokens on earlier ranks left.
// Each rank finds what its own tokens leave behind them without waiting for others, all exchange
// that (model/parallel/state_exchange.h), and the layer's pass over the slice comes after. The
// backward does the same with the gradients of states, from later ranks to earlier ones.
#ifndef MODEL_LAYERS_LIGHTNING_SLICE_H_
#define MODEL_LAYERS_LIGHTNING_SLICE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "model/layers/mixer.h"
#include "model/parallel/state_exchange.h"

namespace salamander {

class LightningSlice {
 public:
  // Borrows both.
  LightningSlice(const MixerPass& pass, absl::Span<const double> slopes);

  // The pass's. Where a document crosses an edge of the slice, its piece starts from slot 0 or
  // leaves its state in slot 1 of the states below.
  Segments segments() const { return segments_; }

  // Collective over the context's ranks. States [2, H, D, D] in the arena with what the first piece
  // starts from in its slot; empty where one rank holds the stream. key, value [T, H, D].
  absl::StatusOr<TensorView> StartStates(TensorView key, TensorView value) const;

  // Collective. Gradients of those states with what comes back to the last piece in its slot.
  // query, d_out [T, H, D].
  absl::StatusOr<TensorView> EndGradients(TensorView query, TensorView d_out, double scale) const;

 private:
  // Rows of the slice whose state other ranks wait for.
  struct Share {
    TensorView key, value;
    double scale;
    const Segment& piece;
    bool is_awaited;
  };
  absl::StatusOr<TensorView> Exchange(StateWay way, const Share& share, int32_t slot) const;

  const ExecutionContext& execution_;
  Communicator* ranks_;  // null: one rank holds the stream
  absl::Span<const double> slopes_;
  std::vector<Segment> segments_;
  SliceEdges edges_;
};

}  // namespace salamander

#endif  // MODEL_LAYERS_LIGHTNING_SLICE_H_
