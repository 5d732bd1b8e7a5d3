#include "kernels/lightning_states.h"

#include "kernels/dispatch.h"

namespace salamander {

absl::Status LightningEndState(const ExecutionContext& context, const LightningEndStateArgs& args) {
  const TensorView& key = args.key;
  SALAMANDER_CHECK(key.rank() == 3 && key.dim(0) >= 1) << "key is " << key.ShapeString();
  CHECK_SAME_SHAPE(args.value, key);
  SALAMANDER_CHECK(static_cast<int64_t>(args.slopes.size()) == key.dim(1))
      << args.slopes.size() << " slopes, key " << key.ShapeString();
  SALAMANDER_CHECK(args.state.dtype() == StatisticsType(key.dtype()) && args.state.rank() == 3 &&
                   args.state.dim(0) == key.dim(1) && args.state.dim(1) == key.dim(2) &&
                   args.state.dim(2) == key.dim(2))
      << "state " << args.state.ShapeString() << ", key " << key.ShapeString();
  DISPATCH_BACKEND(LightningEndState, context, args);
}

absl::Status LightningStateSum(const ExecutionContext& context, const LightningStateSumArgs& args) {
  const TensorView& states = args.states;
  SALAMANDER_CHECK(states.rank() == 4 && args.sum.dtype() == states.dtype() &&
                   args.sum.size() == states.row_size() && args.sum.dim(0) == states.dim(1))
      << "states " << states.ShapeString() << ", sum " << args.sum.ShapeString();
  SALAMANDER_CHECK(static_cast<int64_t>(args.weights.size()) == states.dim(0) * states.dim(1))
      << args.weights.size() << " weights, states " << states.ShapeString();
  DISPATCH_BACKEND(LightningStateSum, context, args);
}

}  // namespace salamander
