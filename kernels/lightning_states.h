// States of Lightning attention by themselves, for streams whose slices lie on several ranks
// (model/parallel/state_exchange.h). The state that rows leave behind them is a sum, so that ranks
// can form theirs side by side and add them up, decayed by what lies between.
#ifndef KERNELS_LIGHTNING_STATES_H_
#define KERNELS_LIGHTNING_STATES_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

// What T rows of one document add to the state, with no outputs:
//   state = scale * sum_t exp(-slope_h (T - 1 - t)) value_t key_t^T
// which for k, v is the state after the last row, from zero (lightning_attention.h). Reversed,
//   state = scale * sum_t exp(-slope_h (t + 1)) value_t key_t^T
// which for q, d_out is the gradient of the state before the first row, where that of the state
// after the last is zero.
struct LightningEndStateArgs {
  TensorView key, value;            // [T, H, D], T >= 1
  absl::Span<const double> slopes;  // [H], >= 0, on the host
  double scale = 1.0;
  bool reversed = false;
  TensorView state;  // [H, D (v), D (k)] fp32 (fp64 in fp64), overwritten
};

//   sum_h = sum_r weights[r, h] * states[r, h]     in the order of r
// A state of weight zero is not read.
struct LightningStateSumArgs {
  TensorView states;                 // [R, H, D, D] fp32 (fp64)
  absl::Span<const double> weights;  // [R, H] on the host
  TensorView sum;                    // [H, D, D], overwritten; not one of the states
};

// Deterministic. Head dimensions as LightningForward has.
absl::Status LightningEndState(const ExecutionContext& context, const LightningEndStateArgs& args);
absl::Status LightningStateSum(const ExecutionContext& context, const LightningStateSumArgs& args);

}  // namespace salamander

#endif  // KERNELS_LIGHTNING_STATES_H_
