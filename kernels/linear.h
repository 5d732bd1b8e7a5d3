// Linear layer without bias.
//   forward   y = x w^T  (+ y where `accumulate`)
//   backward  dx = dy w (+ dx where `accumulate_input`)     dw += dy^T x
#ifndef KERNELS_LINEAR_H_
#define KERNELS_LINEAR_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct LinearForwardArgs {
  TensorView input;         // [T, Cin]
  TensorView weight;        // [Cout, Cin]
  TensorView output;        // [T, Cout]
  bool accumulate = false;  // add to what output holds
};

struct LinearBackwardArgs {
  TensorView input;     // [T, Cin]; may be empty where d_weight is
  TensorView weight;    // [Cout, Cin]; may be empty where d_input is
  TensorView d_output;  // [T, Cout]
  TensorView d_input;   // [T, Cin], or empty: not wanted
  TensorView d_weight;  // [Cout, Cin] in the StatisticsType, added to; or empty: not wanted
                        // (a frozen weight)
  bool accumulate_input = false;  // add to what d_input holds
};

absl::Status LinearForward(const ExecutionContext& context, const LinearForwardArgs& args);
absl::Status LinearBackward(const ExecutionContext& context, const LinearBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_LINEAR_H_
