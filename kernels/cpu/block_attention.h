// Causal softmax attention over blocks of keys: the one engine behind dense and sparse attention.
// Dense attention is the case where every query reads every block up to its own.
//
// A tile is a run of queries with all G query heads of one KV head, row (query i, head g) at
// i * G + g. Scores are held transposed, [keys of a block, rows of the tile], so that softmax works
// on whole vectors and keys and values are read where they lie. Per block only the rows whose list
// names it take part: where that is not all of them, their columns are gathered first, so that a
// visited key costs the same whether or not neighbouring queries share it.
#ifndef KERNELS_CPU_BLOCK_ATTENTION_H_
#define KERNELS_CPU_BLOCK_ATTENTION_H_

#include <cstdint>

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"

namespace salamander::cpu {

template <typename T>
struct BlockAttention {
  const T* q;  // [T, H, D]
  const T* k;  // [Tk, Hkv, D]
  const T* v;  // [Tk, Hkv, D]
  int64_t heads, key_heads, head_dim;
  Segments segments;
  const int32_t* lists = nullptr;  // [T, Hkv, list_length], ascending, then -1; null: every block
  int64_t list_length = 0;
  int64_t block_size = 64;
  double scale = 1.0;

  int64_t group() const { return heads / key_heads; }
};

template <typename T>
struct BlockAttentionGradients {
  const T* out;        // [T, H, D]
  const T* logsumexp;  // [T, H]
  const T* d_out;      // [T, H, D]
  T* dq;               // [T, H, D], overwritten
  T* dk;               // [Tk, Hkv, D], added to
  T* dv;               // [Tk, Hkv, D], added to
};

// `logsumexp` [T, H] may be null.
template <typename T>
void BlockAttentionForward(const ExecutionContext& context, const BlockAttention<T>& attention,
                           T* out, T* logsumexp);
template <typename T>
void BlockAttentionBackward(const ExecutionContext& context, const BlockAttention<T>& attention,
                            const BlockAttentionGradients<T>& gradients);

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_BLOCK_ATTENTION_H_
