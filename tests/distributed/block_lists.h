// Lists of selected blocks are discontinuous in what they are chosen by: two ranks that round
// differently may read different blocks, but only where the scores at the cut are close.
#ifndef TESTS_DISTRIBUTED_BLOCK_LISTS_H_
#define TESTS_DISTRIBUTED_BLOCK_LISTS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "absl/types/span.h"

#include "kernels/block_selection.h"
#include "tests/reference/block_selection.h"
#include "tests/support/random_tensor.h"

namespace salamander {

// What a sparse layer's queries chose, and by what.
struct BlockLists {
  TestTensor query, key, blocks;  // [T, H, D], [T, Hkv, D], [T, Hkv, N]
};

// Blocks that one of two lists (then -1) has and not the other.
inline std::vector<int32_t> DifferingBlocks(absl::Span<const int32_t> a,
                                            absl::Span<const int32_t> b) {
  std::vector<int32_t> differing;
  const auto listed = [](absl::Span<const int32_t> list) {
    return std::find(list.begin(), list.end(), -1);
  };
  std::set_symmetric_difference(a.begin(), listed(a), b.begin(), listed(b),
                                std::back_inserter(differing));
  return differing;
}

// The query's other list, for one KV head, differs from that in `lists` in blocks whose score is
// that at the cut but for `relative_gap` of it. `document` is whole.
inline void ExpectCloseScores(const BlockLists& lists, const BlockSelectionShape& shape,
                              const Segment& document, int64_t position, int64_t key_head,
                              absl::Span<const int32_t> other, double relative_gap) {
  const TestTensor query = lists.query.As(DType::kFloat64), key = lists.key.As(DType::kFloat64);
  const int64_t key_heads = key.View().dim(1);
  const std::vector<double> scores =
      reference::BlockScores({.q = query.View(),
                              .k = key.View(),
                              .segments = {},
                              .shape = shape,
                              .scale = 1.0 / std::sqrt(static_cast<double>(key.View().dim(2)))},
                             document, position, key_head);
  const int64_t row = (document.query_begin + position) * key_heads + key_head;
  const absl::Span<const int32_t> own = lists.blocks.Elements<int32_t>().subspan(
      static_cast<size_t>(row * shape.selected_blocks), other.size());
  double cut = std::numeric_limits<double>::infinity();
  for (const int32_t block : own)
    if (block >= 0) cut = std::min(cut, scores[static_cast<size_t>(block)]);
  for (const int32_t block : DifferingBlocks(own, other)) {
    EXPECT_NEAR(scores[static_cast<size_t>(block)], cut, relative_gap * cut)
        << "block " << block << " of the query at " << position;
  }
}

}  // namespace salamander

#endif  // TESTS_DISTRIBUTED_BLOCK_LISTS_H_
