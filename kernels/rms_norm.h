// Root-mean-square normalisation over the last dimension, with the residual addition that comes
// before it fused in.
//   forward   h = residual + branch_scale * branch  (h = residual where branch is empty)
//             r = 1 / sqrt(mean(h^2) + epsilon)
//             y = h * r * weight
//   backward  dh = r * (weight * dy - h * r^2 * mean(h * weight * dy)) + d_hidden
//             d_residual = dh
//             d_branch = branch_scale * dh
//             d_weight += sum_t dy * h * r
// Where each rank holds some of a row's columns, RmsNormSums gives its part of the sum that the
// mean is taken of (h^2, or h * weight * dy), and the ops take the sum over all parts.
#ifndef KERNELS_RMS_NORM_H_
#define KERNELS_RMS_NORM_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

// Of rows that are split among ranks.
struct SplitRows {
  TensorView sums;    // [T] over all parts, in the activations' StatisticsType; empty: whole rows
  int64_t width = 0;  // of a whole row
};

struct RmsNormForwardArgs {
  TensorView residual;  // [T, C]
  TensorView branch;    // [T, C] or empty
  double branch_scale = 1.0;
  TensorView weight;  // [C]
  double epsilon = 1e-6;
  TensorView hidden;       // [T, C] receives h; may alias residual; empty where branch is
  TensorView output;       // [T, C] receives y
  TensorView inverse_rms;  // [T] receives r, in the activations' StatisticsType
  SplitRows split = {};
};

struct RmsNormBackwardArgs {
  TensorView hidden;       // [T, C] h of the forward (its residual where it had no branch)
  TensorView weight;       // [C]
  TensorView inverse_rms;  // [T]
  TensorView d_output;     // [T, C]
  TensorView d_hidden;     // [T, C] gradient that reaches h from further on, or empty: zero
  double branch_scale = 1.0;
  TensorView d_residual;  // [T, C] receives dh; may alias d_hidden; or empty: not wanted
  TensorView d_branch;    // [T, C] receives branch_scale * dh, or empty
  TensorView d_weight;    // [C] in the StatisticsType, added to; or empty: not wanted
  SplitRows split = {};
};

struct RmsNormSumsArgs {
  TensorView hidden;         // [T, C]
  TensorView weight = {};    // [C]; with d_output alone
  TensorView d_output = {};  // [T, C]; empty: the forward's sums
  TensorView sums = {};      // [T] receives the sum of h^2, or of h * weight * dy, over C
};

absl::Status RmsNormForward(const ExecutionContext& context, const RmsNormForwardArgs& args);
absl::Status RmsNormBackward(const ExecutionContext& context, const RmsNormBackwardArgs& args);
absl::Status RmsNormSums(const ExecutionContext& context, const RmsNormSumsArgs& args);

}  // namespace salamander

#endif  // KERNELS_RMS_NORM_H_
