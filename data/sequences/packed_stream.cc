#include "data/sequences/packed_stream.h"

#include <algorithm>

#include "kernels/base/logging.h"

namespace salamander {
namespace {

void AppendSegment(int64_t count, PackedStream* stream) {
  Segment segment;
  segment.query_begin = stream->size();
  segment.query_count = count;
  segment.key_begin = stream->size();
  stream->segments.push_back(segment);
}

}  // namespace

double PackedStream::weighted_targets() const {
  double sum = 0;
  for (const float weight : loss_weights) sum += weight;
  return sum;
}

bool PackedStream::HasTargets(size_t index) const {
  if (!has_targets.empty()) return has_targets[index];
  const Segment& segment = segments[index];
  const auto begin = loss_weights.begin() + segment.query_begin;
  return std::any_of(begin, begin + segment.query_count,
                     [](float weight) { return weight != 0.0F; });
}

void AppendPiece(absl::Span<const int32_t> piece, int32_t following,
                 absl::Span<const float> target_weights, PackedStream* stream) {
  SALAMANDER_CHECK(!piece.empty());
  SALAMANDER_CHECK(target_weights.empty() || target_weights.size() == piece.size());
  AppendSegment(static_cast<int64_t>(piece.size()), stream);
  stream->tokens.insert(stream->tokens.end(), piece.begin(), piece.end());
  stream->targets.insert(stream->targets.end(), piece.begin() + 1, piece.end());
  stream->targets.push_back(following < 0 ? 0 : following);
  if (target_weights.empty()) {
    stream->loss_weights.insert(stream->loss_weights.end(), piece.size(), 1.0f);
  } else {
    stream->loss_weights.insert(stream->loss_weights.end(), target_weights.begin(),
                                target_weights.end());
  }
  if (following < 0) stream->loss_weights.back() = 0.0f;
}

void AppendPadding(int64_t count, int32_t token, PackedStream* stream) {
  if (count == 0) return;
  AppendSegment(count, stream);
  stream->tokens.insert(stream->tokens.end(), count, token);
  stream->targets.insert(stream->targets.end(), count, 0);
  stream->loss_weights.insert(stream->loss_weights.end(), count, 0.0f);
}

void AppendStream(const PackedStream& other, PackedStream* stream) {
  SALAMANDER_CHECK(other.has_targets.empty() && stream->has_targets.empty())
      << "streams are put together before they are cut into slices";
  const int64_t shift = stream->size();
  for (Segment segment : other.segments) {
    segment.query_begin += shift;
    segment.key_begin += shift;
    stream->segments.push_back(segment);
  }
  stream->tokens.insert(stream->tokens.end(), other.tokens.begin(), other.tokens.end());
  stream->targets.insert(stream->targets.end(), other.targets.begin(), other.targets.end());
  stream->loss_weights.insert(stream->loss_weights.end(), other.loss_weights.begin(),
                              other.loss_weights.end());
}

PackedStream Concatenate(absl::Span<const PackedStream> sequences) {
  PackedStream batch;
  for (const PackedStream& sequence : sequences) AppendStream(sequence, &batch);
  return batch;
}

}  // namespace salamander
