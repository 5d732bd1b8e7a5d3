// What one micro-batch is made of: tokens end to end, with no batch dimension. A batch of
// sequences is a stream with more segments.
//
//   tokens[t]        the input
//   targets[t]       the token that follows t in the same document; 0 where there is none
//   loss_weights[t]  0 where there is no target, where the target is masked out, and in padding
//   segments         one for each piece of a document, and one for padding, in order and without
//                    gaps; key_begin = query_begin, first_position = 0: the piece is the document
//
// Where a document goes on past the end of its piece, the last target is its true next token.
#ifndef DATA_SEQUENCES_PACKED_STREAM_H_
#define DATA_SEQUENCES_PACKED_STREAM_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

#include "kernels/base/segments.h"

namespace salamander {

struct PackedStream {
  std::vector<int32_t> tokens;      // [T]
  std::vector<int32_t> targets;     // [T]
  std::vector<float> loss_weights;  // [T]
  std::vector<Segment> segments;    // covers [0, T)

  // [segments] Of a slice (context_slice.h), whether each document has a weighted target, in this
  // slice or another; empty: its own rows say.
  std::vector<bool> has_targets = {};

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }

  // Sum of the loss weights: what the global batch divides its loss by.
  double weighted_targets() const;

  // Whether the document of segment `index` has a weighted target. Padding has none.
  bool HasTargets(size_t index) const;
};

// Appends a piece of a document as a segment of its own. `following` is the token after the
// piece, or -1 where the document ends with it. `target_weights[i]` belongs to the target of
// piece[i]; empty means 1. Requires: piece is not empty.
void AppendPiece(absl::Span<const int32_t> piece, int32_t following,
                 absl::Span<const float> target_weights, PackedStream* stream);

// Appends `count` times `token` with weight 0, as a segment of its own; nothing for count 0.
void AppendPadding(int64_t count, int32_t token, PackedStream* stream);

// Appends all of `other`, its segments moved behind those of `stream`.
void AppendStream(const PackedStream& other, PackedStream* stream);

// The micro-batch made of several sequences, in their order.
PackedStream Concatenate(absl::Span<const PackedStream> sequences);

}  // namespace salamander

#endif  // DATA_SEQUENCES_PACKED_STREAM_H_
