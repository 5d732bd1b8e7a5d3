#include "data/sequences/context_slice.h"

#include <algorithm>

#include "kernels/base/logging.h"

namespace salamander {
namespace {

template <typename Value>
std::vector<Value> Rows(const std::vector<Value>& values, int64_t begin, int64_t count) {
  return {values.begin() + begin, values.begin() + begin + count};
}

}  // namespace

PackedStream SliceOf(const PackedStream& stream, int rank, int ranks) {
  SALAMANDER_CHECK(rank >= 0 && rank < ranks && stream.size() % ranks == 0)
      << "slice " << rank << " of " << ranks << " of a stream of " << stream.size() << " tokens";
  const int64_t count = stream.size() / ranks;
  const int64_t begin = rank * count;
  PackedStream slice = {.tokens = Rows(stream.tokens, begin, count),
                        .targets = Rows(stream.targets, begin, count),
                        .loss_weights = Rows(stream.loss_weights, begin, count),
                        .segments = {}};
  for (size_t index = 0; index < stream.segments.size(); ++index) {
    const Segment& segment = stream.segments[index];
    const int64_t first = std::max(segment.query_begin, begin);
    const int64_t end = std::min(segment.query_begin + segment.query_count, begin + count);
    if (first >= end) continue;
    Segment piece = segment;
    piece.query_begin = first - begin;
    piece.query_count = end - first;
    piece.first_position += first - segment.query_begin;
    piece.whole_count = segment.document_length();
    slice.segments.push_back(piece);
    slice.has_targets.push_back(stream.HasTargets(index));
  }
  return slice;
}

}  // namespace salamander
