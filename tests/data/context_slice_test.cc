#include "data/sequences/context_slice.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

using testing::ElementsAre;

// Twelve tokens: documents of 5, 1 and 4, and padding.
PackedStream Stream() {
  PackedStream stream;
  AppendPiece({1, 2, 3, 4, 5}, -1, {}, &stream);
  AppendPiece({6}, -1, {}, &stream);
  AppendPiece({7, 8, 9, 10}, 11, {}, &stream);
  AppendPadding(2, 0, &stream);
  return stream;
}

TEST(ContextSliceTest, RowsGoWithTheirTargetsAndWeights) {
  const PackedStream stream = Stream();
  PackedStream whole;
  const auto append = [](const auto& from, auto& to) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (int rank = 0; rank < 3; ++rank) {
    const PackedStream slice = SliceOf(stream, rank, 3);
    append(slice.tokens, whole.tokens);
    append(slice.targets, whole.targets);
    append(slice.loss_weights, whole.loss_weights);
  }
  EXPECT_EQ(whole.tokens, stream.tokens);
  EXPECT_EQ(whole.targets, stream.targets);
  EXPECT_EQ(whole.loss_weights, stream.loss_weights);
  EXPECT_THAT(SliceOf(stream, 0, 3).targets, ElementsAre(2, 3, 4, 5));  // the next one's first row
}

TEST(ContextSliceTest, PiecesKnowTheirPlaceInTheirDocument) {
  const PackedStream stream = Stream();
  for (int ranks : {1, 2, 3, 4, 6, 12}) {
    std::vector<int64_t> rows_of_document(stream.segments.size());
    for (int rank = 0; rank < ranks; ++rank) {
      const PackedStream slice = SliceOf(stream, rank, ranks);
      int64_t next = 0;
      for (const Segment& piece : slice.segments) {
        EXPECT_EQ(piece.query_begin, next);
        next += piece.query_count;
        const int64_t row = rank * slice.size() + piece.query_begin;
        EXPECT_EQ(piece.key_begin + piece.first_position, row);
        size_t document = 0;
        while (stream.segments[document].query_begin != piece.key_begin) ++document;
        EXPECT_EQ(piece.first_position, rows_of_document[document]);
        EXPECT_EQ(piece.document_length(), stream.segments[document].query_count);
        rows_of_document[document] += piece.query_count;
      }
      EXPECT_EQ(next, slice.size());
    }
    for (size_t i = 0; i < stream.segments.size(); ++i)
      EXPECT_EQ(rows_of_document[i], stream.segments[i].query_count);
  }
}

TEST(ContextSliceTest, TheLastTokensOfADocumentAreNotPadding) {
  PackedStream stream;
  AppendPiece({1, 2, 3, 4, 5}, -1, {}, &stream);
  AppendPadding(3, 0, &stream);
  const PackedStream slice = SliceOf(stream, 1, 2);
  ASSERT_EQ(slice.segments.size(), 2u);
  EXPECT_THAT(slice.loss_weights, ElementsAre(0, 0, 0, 0));
  EXPECT_TRUE(slice.HasTargets(0));
  EXPECT_FALSE(slice.HasTargets(1));
  EXPECT_TRUE(stream.HasTargets(0));
  EXPECT_FALSE(stream.HasTargets(1));
}

TEST(ContextSliceTest, SlicesOfADocumentThatEndsOnAnEdgeAreWhole) {
  PackedStream stream;
  AppendPiece({1, 2, 3}, -1, {}, &stream);
  AppendPiece({4, 5, 6}, -1, {}, &stream);
  const PackedStream slice = SliceOf(stream, 1, 2);
  ASSERT_EQ(slice.segments.size(), 1u);
  EXPECT_EQ(slice.segments[0].key_begin, 3);
  EXPECT_EQ(slice.segments[0].first_position, 0);
  EXPECT_EQ(slice.segments[0].document_length(), 3);
}

}  // namespace
}  // namespace salamander
