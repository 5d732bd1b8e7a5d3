// Token embedding with muP's output scale.
//   forward   y_t = scale * table[token_t]
//   backward  d_table[v] += scale * sum of dy_t over t with token_t = v, in token order
// The table may be a part of the whole one: tokens of other parts give zero rows and no gradient.
#ifndef KERNELS_EMBEDDING_H_
#define KERNELS_EMBEDDING_H_

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

// Which rows of the whole table a part of it is.
struct EmbeddingPart {
  int64_t first_token = 0;
  int64_t vocabulary = 0;  // of the whole table; 0: the part is all of it
};

struct EmbeddingForwardArgs {
  TensorView tokens;  // [T] int32
  TensorView table;   // [V, C]
  TensorView output;  // [T, C]
  double scale = 1.0;
  EmbeddingPart part = {};
};

struct EmbeddingBackwardArgs {
  TensorView tokens;    // [T] int32
  TensorView d_output;  // [T, C]
  TensorView d_table;   // [V, C] in the StatisticsType, added to
  double scale = 1.0;
  EmbeddingPart part = {};
};

inline int64_t WholeVocabulary(const EmbeddingPart& part, const TensorView& table) {
  return part.vocabulary == 0 ? table.dim(0) : part.vocabulary;
}

// Fails where a token lies outside the whole table, naming its row; on CUDA at the next wait
// (kernels/device.h).
absl::Status EmbeddingForward(const ExecutionContext& context, const EmbeddingForwardArgs& args);
absl::Status EmbeddingBackward(const ExecutionContext& context, const EmbeddingBackwardArgs& args);

}  // namespace salamander

#endif  // KERNELS_EMBEDDING_H_
