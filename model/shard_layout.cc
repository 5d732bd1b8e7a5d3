#include "model/shard_layout.h"

#include <algorithm>

#include "kernels/base/logging.h"

namespace salamander {

ShardLayout::ShardLayout(const ParameterLayout& layout, int rank, int ranks,
                         int64_t bucket_elements)
    : rank_(rank), ranks_(ranks) {
  const int64_t step = ParameterLayout::kAlignmentElements;
  const int64_t total = layout.total_size();
  SALAMANDER_CHECK(total % (step * ranks) == 0)
      << total << " elements are not laid out for " << ranks << " replicas";
  // One rank owns all of it in one piece, whatever a bucket holds.
  const int64_t most = ranks == 1 ? total : std::max(step, bucket_elements / ranks / step * step);
  for (int64_t begin = 0; begin < total;) {
    const Bucket bucket{
        .begin = begin, .part = std::min(most, (total - begin) / ranks), .shard_begin = size_};
    AddPieces(layout, bucket);
    buckets_.push_back(bucket);
    size_ += bucket.part;
    begin += bucket.part * ranks;
  }
}

void ShardLayout::AddPieces(const ParameterLayout& layout, const Bucket& bucket) {
  const int64_t begin = bucket.mine(rank_);
  const int64_t end = begin + bucket.part;
  const absl::Span<const ParameterSpec> specs = layout.specs();
  auto spec = std::partition_point(specs.begin(), specs.end(), [&](const ParameterSpec& before) {
    return before.offset + before.size() <= begin;
  });
  for (; spec != specs.end() && spec->offset < end; ++spec) {
    const int64_t from = std::max(begin, spec->offset);
    const int64_t to = std::min(end, spec->offset + spec->size());
    pieces_.push_back({.parameter = static_cast<size_t>(spec - specs.begin()),
                       .begin = from - spec->offset,
                       .count = to - from,
                       .flat_begin = from,
                       .shard_begin = bucket.shard_begin + from - begin});
  }
}

}  // namespace salamander
