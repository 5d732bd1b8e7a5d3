#include "data/sequences/sequence_stream.h"

#include "absl/strings/str_cat.h"

namespace salamander {

std::vector<int64_t> FlattenPosition(const SourcePosition& position) {
  std::vector<int64_t> flat = {position.next_document};
  for (const DocumentPiece& piece : position.pending) {
    flat.insert(flat.end(), {piece.number, piece.begin, piece.count});
  }
  return flat;
}

absl::StatusOr<SourcePosition> UnflattenPosition(absl::Span<const int64_t> flat) {
  if (flat.size() % 3 != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a source position of ", flat.size(),
                     " numbers; expected one and three for each pending piece"));
  }
  SourcePosition position;
  position.next_document = flat[0];
  for (size_t i = 1; i < flat.size(); i += 3) {
    position.pending.push_back({.number = flat[i], .begin = flat[i + 1], .count = flat[i + 2]});
  }
  return position;
}

}  // namespace salamander
