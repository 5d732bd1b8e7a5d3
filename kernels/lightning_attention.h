// Causal linear attention with a fixed decay per head, over segments.
//   S_t = exp(-slope_h) * S_{t-1} + v_t k_t^T        o_t = scale * S_t q_t
// S starts from its in-slot's state, so that, from zero,
//   o_t = scale * sum_{j <= t} exp(-slope_h (t - j)) (q_t . k_j) v_j.
// A stored state is S after the last token, not decayed further. Backward, with dS_t the gradient
// of S_t and from the last token to the first:
//   dS_t += scale * do_t q_t^T     dS_{t-1} = exp(-slope_h) dS_t
//   dq_t = scale * S_t^T do_t      dk_t = dS_t^T v_t      dv_t = dS_t k_t
// A NaN stays in its document. Inside it, it can show up to 63 tokens on the side that does not
// read it, since chunks are multiplied with weights of zero for what is masked, and can be
// forgotten where its weight has decayed below 2^-32.
// Source: MiniMax-01 (arXiv 2501.08313) sec. 3.2; no layer-dependent factor in MiniCPM-SALA.
#ifndef KERNELS_LIGHTNING_ATTENTION_H_
#define KERNELS_LIGHTNING_ATTENTION_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct LightningForwardArgs {
  TensorView q, k, v;  // [T, H, D]; keys of a segment are its queries' rows: key_begin is not read
  absl::Span<const double> slopes;  // [H], >= 0, on the host
  Segments segments;                // state_in and state_out are rows of states
  double scale = 1.0;
  TensorView states;  // [slots, H, D (v), D (k)] fp32 (fp64 in fp64); empty where every segment has
                      // no slot
  TensorView out;     // [T, H, D]
};

struct LightningBackwardArgs {
  TensorView q, k, v;               // [T, H, D]
  absl::Span<const double> slopes;  // [H]
  Segments segments;
  double scale = 1.0;
  TensorView
      states;  // [slots, H, D (v), D (k)] as the forward found it: in-slots still hold start states
  TensorView d_states;    // same shape: a segment's out-slot holds the gradient of its final state;
                          // its in-slot receives (overwritten) the gradient of its start state. In
                          // and out slots differ. Empty: no slots
  TensorView d_out;       // [T, H, D]
  TensorView dq, dk, dv;  // [T, H, D], overwritten
};

// Deterministic: chunk sums are ordered. Any head dimension on the CPU; 16 to 128 in steps of 16 on
// CUDA.
// In the forward a segment's in-slot may be its out-slot (decoding in place).
absl::Status LightningForward(const ExecutionContext& context, const LightningForwardArgs& args);
absl::Status LightningBackward(const ExecutionContext& context, const LightningBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_LIGHTNING_ATTENTION_H_
