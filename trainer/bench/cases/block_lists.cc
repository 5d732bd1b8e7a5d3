#include "trainer/bench/cases/block_lists.h"

#include <algorithm>
#include <set>

#include "kernels/base/random.h"

namespace salamander {
namespace {

// Blocks of a document that the query at a position may read, in three ranges: those of [0,
// leading) and [local, own] are read whatever the scores are.
struct Ranges {
  int64_t leading, local, own;

  Ranges(const SparseConfig& sparse, int64_t position) : own(position / sparse.block_size) {
    local = std::max<int64_t>(own - sparse.local_blocks(), 0);
    leading = std::min(sparse.init_blocks, local);
  }
  int64_t forced() const { return leading + own - local + 1; }
};

// The blocks of [leading, local) that a query reads, from those that the one before it read.
void Move(const Ranges& ranges, int64_t room, double shared, uint64_t key,
          std::set<int32_t>& older) {
  for (auto block = older.begin(); block != older.end();) {
    const bool stays = UniformAt(key, static_cast<uint64_t>(*block)) < shared;
    block = stays ? std::next(block) : older.erase(block);
  }
  const int64_t among = ranges.local - ranges.leading;
  const int64_t wanted = std::min(room, among);
  for (uint64_t draw = 0; static_cast<int64_t>(older.size()) < wanted; ++draw) {
    const uint64_t chosen = HashCounter(key + 1, draw) % static_cast<uint64_t>(among);
    older.insert(static_cast<int32_t>(ranges.leading + static_cast<int64_t>(chosen)));
  }
}

}  // namespace

std::vector<int32_t> MadeUpBlockLists(const SparseConfig& sparse, Segments segments,
                                      int64_t kv_heads, double shared) {
  const int64_t selected = sparse.selected_blocks();
  std::vector<int32_t> lists;
  for (const Segment& segment : segments) {
    std::vector<std::set<int32_t>> older(static_cast<size_t>(kv_heads));
    for (int64_t position = 0; position < segment.query_count; ++position) {
      const Ranges ranges(sparse, position);
      for (int64_t head = 0; head < kv_heads; ++head) {
        std::set<int32_t>& of_head = older[static_cast<size_t>(head)];
        const uint64_t key =
            HashCounter(static_cast<uint64_t>(position), static_cast<uint64_t>(head));
        Move(ranges, selected - ranges.forced(), shared, key, of_head);
        const size_t end = lists.size() + static_cast<size_t>(selected);
        for (int64_t block = 0; block < ranges.leading; ++block)
          lists.push_back(static_cast<int32_t>(block));
        lists.insert(lists.end(), of_head.begin(), of_head.end());
        for (int64_t block = ranges.local; block <= ranges.own; ++block)
          lists.push_back(static_cast<int32_t>(block));
        lists.resize(end, -1);
      }
    }
  }
  return lists;
}

}  // namespace salamander
