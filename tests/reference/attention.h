// Slow twins of the softmax attention ops, fp64 and one score at a time.
#ifndef TESTS_REFERENCE_ATTENTION_H_
#define TESTS_REFERENCE_ATTENTION_H_

#include "kernels/base/tensor_view.h"
#include "kernels/dense_attention.h"
#include "kernels/sparse_attention.h"

namespace salamander::reference {

void DenseAttentionForward(const DenseAttentionForwardArgs& args);
void DenseAttentionBackward(const DenseAttentionBackwardArgs& args);
void SparseAttentionForward(const SparseAttentionForwardArgs& args);
void SparseAttentionBackward(const SparseAttentionBackwardArgs& args);

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_ATTENTION_H_
