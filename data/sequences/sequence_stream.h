// An endless list of sequences of one length. Sequence n is exactly sequence_length tokens and a
// pure function of (data, seed, position at the stage's start, n), whatever was read before it.
//
// A position says what a source has already given away. It passes from one stage to the next,
// where length and packing may differ, so that no stage sees a token the one before it saw in
// the same epoch. A stage's data cursor is its start positions and n.
#ifndef DATA_SEQUENCES_SEQUENCE_STREAM_H_
#define DATA_SEQUENCES_SEQUENCE_STREAM_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "data/sequences/packed_stream.h"

namespace salamander {

// Tokens [begin, begin + count) of document `number` of a source's order.
struct DocumentPiece {
  int64_t number = 0;
  int64_t begin = 0;
  int64_t count = 0;

  friend bool operator==(const DocumentPiece&, const DocumentPiece&) = default;
};

// What comes next: the pending pieces, then the documents from next_document on. Synthetic
// sources count samples as documents and have nothing pending.
struct SourcePosition {
  std::vector<DocumentPiece> pending;
  int64_t next_document = 0;

  friend bool operator==(const SourcePosition&, const SourcePosition&) = default;
};

// next_document, then number, begin and count of each pending piece: what a checkpoint stores.
std::vector<int64_t> FlattenPosition(const SourcePosition& position);
absl::StatusOr<SourcePosition> UnflattenPosition(absl::Span<const int64_t> flat);

class SequenceStream {
 public:
  virtual ~SequenceStream() = default;

  virtual int64_t sequence_length() const = 0;

  // Thread-safe. Requires: n >= 0.
  virtual absl::StatusOr<PackedStream> Sequence(int64_t n) const = 0;

  // The source's position once sequences 0, ..., n - 1 are given away.
  virtual SourcePosition PositionAt(int64_t n) const = 0;
};

}  // namespace salamander

#endif  // DATA_SEQUENCES_SEQUENCE_STREAM_H_
