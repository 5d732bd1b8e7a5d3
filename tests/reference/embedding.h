// Token embedding, one element at a time in fp64.
#ifndef TESTS_REFERENCE_EMBEDDING_H_
#define TESTS_REFERENCE_EMBEDDING_H_

#include <cmath>
#include <cstdint>

#include "kernels/embedding.h"

namespace salamander::reference {

inline void EmbeddingForward(const EmbeddingForwardArgs& args) {
  const int64_t width = args.table.dim(1);
  for (int64_t t = 0; t < args.tokens.dim(0); ++t) {
    for (int64_t c = 0; c < width; ++c) {
      args.output.data<double>()[t * width + c] =
          args.scale * args.table.data<double>()[args.tokens.data<int32_t>()[t] * width + c];
    }
  }
}

inline void EmbeddingBackward(const EmbeddingBackwardArgs& args) {
  const int64_t width = args.d_table.dim(1);
  for (int64_t t = 0; t < args.tokens.dim(0); ++t) {
    for (int64_t c = 0; c < width; ++c) {
      args.d_table.data<double>()[args.tokens.data<int32_t>()[t] * width + c] +=
          args.scale * args.d_output.data<double>()[t * width + c];
    }
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_EMBEDDING_H_
