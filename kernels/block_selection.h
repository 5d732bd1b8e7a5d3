// InfLLM-V2 stage 1: which blocks of keys each query reads. No gradient flows through it.
//   fine keys    K1[j] = mean K[stride*j .. stride*j + kernel - 1]
//   coarse keys  K2[c]: the same with 4 times the kernel and 4 times the stride
//   visible      a pooled key whose last token is at a position <= the query's
//   P[h,j]       = exp(scale * q_h . K1[j] - logsumexp_c(scale * q_h . K2[c])) over visible keys;
//                0 where no K2 is visible
//   S[g,j]       = sum of P over the query heads of KV head g
//   score[g,b]   = max of S[g,j] over the fine windows that overlap block b
//                (block 64, stride 16: j = 4b-1 .. 4b+3)
//   forced       b < init_blocks, and the current block with local_blocks before it
//                (local_blocks + 1 in all)
// The selected_blocks best of blocks 0 .. current are taken, forced ones first, then by score,
// equal scores to the lower index; listed in ascending order. A NaN in a pooled key is a score of
// infinity there and, once a coarse key has it, of 0 elsewhere: queries that see it read its
// blocks, so that it shows. Source: arXiv 2509.24663 sec. 3 and its public kernels, with absolute
// positions.
#ifndef KERNELS_BLOCK_SELECTION_H_
#define KERNELS_BLOCK_SELECTION_H_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct BlockSelectionShape {
  int64_t kernel_size = 32;
  int64_t kernel_stride = 16;
  int64_t block_size = 64;
  int64_t init_blocks = 1;
  int64_t local_blocks = 32;     // before the current one
  int64_t selected_blocks = 96;  // in all
};

// Pooled keys lie at fixed rows, so no table is needed: window j of a segment is row key_begin /
// stride + j (stride 4 times as large for coarse keys). Windows hold whole strides of one segment,
// so rows of different segments never meet.
int64_t FineKeyRows(int64_t key_rows, const BlockSelectionShape& shape);
int64_t CoarseKeyRows(int64_t key_rows, const BlockSelectionShape& shape);

struct PoolKeysArgs {
  TensorView k;  // [Tk, Hkv, D]
  Segments segments;
  BlockSelectionShape shape;
  bool only_new = false;  // pool only windows that end at or after first_position; earlier ones are
                          // there already
  TensorView fine_keys;   // [FineKeyRows(Tk), Hkv, D]
  TensorView coarse_keys;  // [CoarseKeyRows(Tk), Hkv, D]
};

struct SelectBlocksArgs {
  TensorView q;            // [T, H, D]
  TensorView fine_keys;    // [FineKeyRows(Tk), Hkv, D]
  TensorView coarse_keys;  // [CoarseKeyRows(Tk), Hkv, D]
  Segments segments;
  BlockSelectionShape shape;
  double scale = 1.0;
  TensorView blocks;  // [T, Hkv, selected_blocks] int32 receives block indices within the segment,
                      // ascending, then -1
};

absl::Status PoolKeys(const ExecutionContext& context, const PoolKeysArgs& args);
absl::Status SelectBlocks(const ExecutionContext& context, const SelectBlocksArgs& args);

}  // namespace salamander

#endif  // KERNELS_BLOCK_SELECTION_H_
