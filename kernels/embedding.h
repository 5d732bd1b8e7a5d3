// Token embedding with muP's output scale.
//   forward   y_t = scale * table[token_t]
//   backward  d_table[v] += scale * sum of dy_t over t with token_t = v, in token order
#ifndef KERNELS_EMBEDDING_H_
#define KERNELS_EMBEDDING_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct EmbeddingForwardArgs {
  TensorView tokens;  // [T] int32
  TensorView table;   // [V, C]
  TensorView output;  // [T, C]
  double scale = 1.0;
};

struct EmbeddingBackwardArgs {
  TensorView tokens;    // [T] int32
  TensorView d_output;  // [T, C]
  TensorView d_table;   // [V, C] in the StatisticsType, added to
  double scale = 1.0;
};

// Fails where a token lies outside [0, V), naming its row; on CUDA at the next wait
// (kernels/device.h).
absl::Status EmbeddingForward(const ExecutionContext& context, const EmbeddingForwardArgs& args);
absl::Status EmbeddingBackward(const ExecutionContext& context, const EmbeddingBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_EMBEDDING_H_
