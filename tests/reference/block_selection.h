// Slow twin of block selection: scores straight from the keys, window by window, in fp64.
#ifndef TESTS_REFERENCE_BLOCK_SELECTION_H_
#define TESTS_REFERENCE_BLOCK_SELECTION_H_

#include <cstdint>
#include <vector>

#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "kernels/block_selection.h"

namespace salamander::reference {

struct SelectionProblem {
  TensorView q;  // [T, H, D] fp64
  TensorView k;  // [Tk, Hkv, D] fp64
  Segments segments;
  BlockSelectionShape shape;
  double scale = 1.0;
};

// Mean of rows [first, first + count) of one KV head.
std::vector<double> MeanKey(const TensorView& k, int64_t key_head, int64_t first, int64_t count);

// Scores of blocks 0 .. current of the query at `position` of a segment; infinity where forced.
std::vector<double> BlockScores(const SelectionProblem& problem, const Segment& segment,
                                int64_t position, int64_t key_head);

// The best `count` indices in ascending order, equal scores to the lower one.
std::vector<int32_t> BestBlocks(const std::vector<double>& scores, int64_t count);

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_BLOCK_SELECTION_H_
