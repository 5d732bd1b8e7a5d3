// Per-head RMSNorm followed by rotary position embedding, in one pass; either half may be absent.
//   forward   n = x * r * weight, r = 1 / sqrt(mean_D(x^2) + epsilon)   (n = x: weight is empty)
//             y_d       = n_d       * cos[t, d] - n_{d+D/2} * sin[t, d]   for d < D/2
//             y_{d+D/2} = n_{d+D/2} * cos[t, d] + n_d       * sin[t, d]   (y = n: cosines is empty)
// Half-split pairing (Llama, Qwen3, MiniCPM). Source: arXiv 2104.09864; norm before rotation as in
// Qwen3.
#ifndef KERNELS_HEAD_NORM_ROPE_H_
#define KERNELS_HEAD_NORM_ROPE_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct HeadNormRopeForwardArgs {
  TensorView input;   // [T, H, D]
  TensorView weight;  // [D], shared by the heads; empty: no norm
  double epsilon = 1e-6;
  TensorView cosines;  // [T, D/2] in the input's StatisticsType, a row per token of the stream;
                       // empty: no rotation
  TensorView sines;    // [T, D/2]
  TensorView output;   // [T, H, D]; may alias input where weight is empty
  TensorView
      inverse_rms;  // [T, H] receives r, in the input's StatisticsType; empty where weight is
};

struct HeadNormRopeBackwardArgs {
  TensorView input;        // [T, H, D] of the forward; empty where weight is
  TensorView weight;       // [D] or empty
  TensorView cosines;      // [T, D/2] or empty
  TensorView sines;        // [T, D/2] or empty
  TensorView inverse_rms;  // [T, H] or empty
  TensorView d_output;     // [T, H, D]
  TensorView d_input;      // [T, H, D]; may alias d_output
  TensorView d_weight;     // [D] in the StatisticsType, added to; or empty: not wanted
};

absl::Status HeadNormRopeForward(const ExecutionContext& context,
                                 const HeadNormRopeForwardArgs& args);
absl::Status HeadNormRopeBackward(const ExecutionContext& context,
                                  const HeadNormRopeBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_HEAD_NORM_ROPE_H_
