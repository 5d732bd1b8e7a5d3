// The rows of a token stream by token, those of one token in their own order: what the embedding's
// backward adds up along.
#ifndef KERNELS_CUDA_ROWS_TOKEN_ORDER_H_
#define KERNELS_CUDA_ROWS_TOKEN_ORDER_H_

#include <cstdint>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "kernels/embedding.h"

namespace salamander::cuda {

struct TokenOrder {
  const uint32_t* tokens;  // [T] rows of the table, ascending; `vocabulary`: the token has none
  const int32_t* rows;     // [T] the row that each comes from
};

// tokens [T] int32; the table has `vocabulary` rows, the given part of the whole one. A token
// outside the whole is a fault. Memory comes from the context's arena and lasts as long as the
// caller's scope.
absl::StatusOr<TokenOrder> OrderByToken(const ExecutionContext& context, const TensorView& tokens,
                                        int64_t vocabulary, const EmbeddingPart& part);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ROWS_TOKEN_ORDER_H_
