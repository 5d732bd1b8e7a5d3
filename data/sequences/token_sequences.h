// Sequences read from a token file: the training part as an endless shuffled stream, and the
// held-out part as a fixed list.
#ifndef DATA_SEQUENCES_TOKEN_SEQUENCES_H_
#define DATA_SEQUENCES_TOKEN_SEQUENCES_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "data/sequences/document_order.h"
#include "data/sequences/packing.h"
#include "data/sequences/sequence_stream.h"
#include "data/tokens/token_file.h"

namespace salamander {

struct TokenSequencesOptions {
  int64_t sequence_length = 0;
  bool keep_documents_whole = false;  // data/sequences/packing.h; else concatenated
  SplitOptions split = {};
  // One seed for the whole run: a stage that goes on where another stopped needs the same order.
  uint64_t seed = 0;
  SourcePosition start = {};
  Lane lane = {};  // data/sequences/document_order.h
};

class TokenSequences : public SequenceStream {
 public:
  static absl::StatusOr<std::unique_ptr<TokenSequences>> Create(
      std::shared_ptr<const TokenFileReader> file, const TokenSequencesOptions& options);

  int64_t sequence_length() const override { return sequence_length_; }
  absl::StatusOr<PackedStream> Sequence(int64_t n) const override;
  SourcePosition PositionAt(int64_t n) const override { return packing_->PositionAt(n); }

  int64_t tokens_per_epoch() const { return order_->tokens_per_epoch(); }

 private:
  TokenSequences() = default;

  int64_t sequence_length_ = 0;
  std::shared_ptr<const TokenFileReader> file_;
  std::unique_ptr<DocumentOrder> order_;
  std::unique_ptr<Packing> packing_;
};

// The held-out documents in a fixed order, concatenated and cut every sequence_length tokens; the
// last sequence is padded. The same list for every run with the same split.
class HeldOutSequences {
 public:
  static absl::StatusOr<std::unique_ptr<HeldOutSequences>> Create(
      std::shared_ptr<const TokenFileReader> file, const SplitOptions& split,
      int64_t sequence_length);

  int64_t size() const { return size_; }

  // Requires: 0 <= i < size().
  absl::StatusOr<PackedStream> Sequence(int64_t i) const;

 private:
  HeldOutSequences() = default;

  int64_t sequence_length_ = 0;
  int64_t size_ = 0;
  std::shared_ptr<const TokenFileReader> file_;
  std::unique_ptr<DocumentOrder> order_;
};

// Reads a piece of a document as a segment of its own, with its true next token as last target.
absl::Status AppendDocumentPiece(const TokenFileReader& file, const DocumentOrder& order,
                                 const DocumentPiece& piece, PackedStream* stream);

}  // namespace salamander

#endif  // DATA_SEQUENCES_TOKEN_SEQUENCES_H_
