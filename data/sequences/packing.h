// Which pieces of documents make up sequence n. Two ways:
//
//   concatenated  the pending pieces and then the documents follow each other without gaps;
//                 sequence n is tokens [n L, (n + 1) L) of that stream. No token is lost or
//                 padded, and every document that straddles a multiple of L is cut there.
//   whole         a document of L tokens or fewer is never cut. A sequence starts with the oldest
//                 waiting piece and takes, again and again, the longest waiting piece that still
//                 fits (the older of two equal ones), from a look-ahead of 256 documents. What is
//                 left is padding. A longer document is cut every L tokens; its tail then waits
//                 like a document. Nothing starves: the oldest goes first.
//
// Packing knows lengths only; data/sequences/token_sequences.h reads the tokens.
#ifndef DATA_SEQUENCES_PACKING_H_
#define DATA_SEQUENCES_PACKING_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "data/sequences/document_order.h"
#include "data/sequences/sequence_stream.h"

namespace salamander {

class Packing {
 public:
  virtual ~Packing() = default;

  // The pieces of sequence n, in order, of at most L tokens together. Thread-safe.
  virtual std::vector<DocumentPiece> Pieces(int64_t n) const = 0;

  // What is left once sequences 0, ..., n - 1 are given away.
  virtual SourcePosition PositionAt(int64_t n) const = 0;
};

// `order` must outlive the packing. Requires: sequence_length >= 1 and pieces of `start` lie in
// their documents.
std::unique_ptr<Packing> MakeConcatenatedPacking(const DocumentOrder& order,
                                                 int64_t sequence_length, SourcePosition start);
std::unique_ptr<Packing> MakeWholeDocumentPacking(const DocumentOrder& order,
                                                  int64_t sequence_length, SourcePosition start);

}  // namespace salamander

#endif  // DATA_SEQUENCES_PACKING_H_
