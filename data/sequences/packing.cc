#include "data/sequences/packing.h"

#include <algorithm>
#include <mutex>
#include <utility>

namespace salamander {
namespace {

class ConcatenatedPacking : public Packing {
 public:
  ConcatenatedPacking(const DocumentOrder& order, int64_t sequence_length, SourcePosition start)
      : order_(order), length_(sequence_length), start_(std::move(start)) {
    for (const DocumentPiece& piece : start_.pending) pending_tokens_ += piece.count;
    tokens_before_ = order_.TokensBefore(start_.next_document);
  }

  std::vector<DocumentPiece> Pieces(int64_t n) const override {
    SourcePosition position = PositionAt(n);
    std::vector<DocumentPiece> pieces;
    int64_t space = length_;
    for (size_t next = 0; space > 0; ++next) {
      DocumentPiece piece;
      if (next < position.pending.size()) {
        piece = position.pending[next];
      } else {
        piece.number = position.next_document++;
        piece.count = order_.Length(piece.number);
      }
      piece.count = std::min(piece.count, space);
      space -= piece.count;
      pieces.push_back(piece);
    }
    return pieces;
  }

  SourcePosition PositionAt(int64_t n) const override {
    int64_t token = n * length_;
    SourcePosition position;
    if (token >= pending_tokens_) {
      const auto place = order_.Locate(tokens_before_ + token - pending_tokens_);
      position.next_document = place.number;
      if (place.offset > 0) {
        position.pending.push_back({.number = place.number,
                                    .begin = place.offset,
                                    .count = order_.Length(place.number) - place.offset});
        ++position.next_document;
      }
      return position;
    }
    position.next_document = start_.next_document;
    for (DocumentPiece piece : start_.pending) {
      const int64_t used = std::min(token, piece.count);
      token -= used;
      piece.begin += used;
      piece.count -= used;
      if (piece.count > 0) position.pending.push_back(piece);
    }
    return position;
  }

 private:
  const DocumentOrder& order_;
  const int64_t length_;
  const SourcePosition start_;
  int64_t pending_tokens_ = 0;
  int64_t tokens_before_ = 0;
};

class WholeDocumentPacking : public Packing {
 public:
  WholeDocumentPacking(const DocumentOrder& order, int64_t sequence_length, SourcePosition start)
      : order_(order), length_(sequence_length), current_(start) {
    marks_.push_back(std::move(start));
  }

  std::vector<DocumentPiece> Pieces(int64_t n) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    MoveTo(n);
    return Step();
  }

  SourcePosition PositionAt(int64_t n) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    MoveTo(n);
    return current_;
  }

 private:
  static constexpr size_t kLookAhead = 256;
  // Every so many sequences the state is remembered: going back costs at most this many steps.
  static constexpr int64_t kMarkEvery = 1024;

  void MoveTo(int64_t n) const {
    const int64_t mark = std::min(n / kMarkEvery, static_cast<int64_t>(marks_.size()) - 1);
    if (n < current_n_ || mark * kMarkEvery > current_n_) {
      current_ = marks_[mark];
      current_n_ = mark * kMarkEvery;
    }
    while (current_n_ < n) Step();
  }

  // Takes the pieces of sequence current_n_ and moves past it.
  std::vector<DocumentPiece> Step() const {
    std::vector<DocumentPiece>& pending = current_.pending;
    while (pending.size() < kLookAhead) {
      const int64_t number = current_.next_document++;
      pending.push_back({.number = number, .begin = 0, .count = order_.Length(number)});
    }
    std::vector<DocumentPiece> pieces;
    int64_t space = length_;
    auto choice = pending.begin();
    while (choice != pending.end()) {
      DocumentPiece piece = *choice;
      piece.count = std::min(piece.count, space);
      space -= piece.count;
      pieces.push_back(piece);
      choice->begin += piece.count;
      choice->count -= piece.count;
      if (choice->count == 0) pending.erase(choice);
      choice = LongestThatFits(&pending, space);
    }
    ++current_n_;
    if (current_n_ == static_cast<int64_t>(marks_.size()) * kMarkEvery) marks_.push_back(current_);
    return pieces;
  }

  static std::vector<DocumentPiece>::iterator LongestThatFits(std::vector<DocumentPiece>* pending,
                                                              int64_t space) {
    auto best = pending->end();
    for (auto piece = pending->begin(); piece != pending->end(); ++piece) {
      if (piece->count > space) continue;
      if (best == pending->end() || piece->count > best->count) best = piece;
    }
    return best;
  }

  const DocumentOrder& order_;
  const int64_t length_;
  mutable std::mutex mutex_;
  mutable SourcePosition current_;  // before sequence current_n_
  mutable int64_t current_n_ = 0;
  mutable std::vector<SourcePosition> marks_;  // before sequence i * kMarkEvery
};

}  // namespace

std::unique_ptr<Packing> MakeConcatenatedPacking(const DocumentOrder& order,
                                                 int64_t sequence_length, SourcePosition start) {
  return std::make_unique<ConcatenatedPacking>(order, sequence_length, std::move(start));
}

std::unique_ptr<Packing> MakeWholeDocumentPacking(const DocumentOrder& order,
                                                  int64_t sequence_length, SourcePosition start) {
  return std::make_unique<WholeDocumentPacking>(order, sequence_length, std::move(start));
}

}  // namespace salamander
