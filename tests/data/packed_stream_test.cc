#include "data/sequences/packed_stream.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

using testing::ElementsAre;

TEST(PackedStreamTest, TargetIsTheNextTokenAndTheLastHasNoWeight) {
  PackedStream stream;
  AppendPiece({5, 6, 7}, -1, {}, &stream);
  AppendPiece({8, 9}, 10, {}, &stream);
  EXPECT_THAT(stream.tokens, ElementsAre(5, 6, 7, 8, 9));
  EXPECT_THAT(stream.targets, ElementsAre(6, 7, 0, 9, 10));
  EXPECT_THAT(stream.loss_weights, ElementsAre(1, 1, 0, 1, 1));
  EXPECT_EQ(stream.weighted_targets(), 4);
}

TEST(PackedStreamTest, ConcatenationShiftsSegments) {
  PackedStream first;
  AppendPiece({5, 6, 7}, -1, {}, &first);
  AppendPadding(2, 0, &first);
  PackedStream second;
  AppendPiece({8}, 9, {}, &second);
  const PackedStream batch = Concatenate({first, second, first});
  ASSERT_EQ(batch.segments.size(), 5u);
  int64_t next = 0;
  for (const Segment& segment : batch.segments) {
    EXPECT_EQ(segment.query_begin, next);
    EXPECT_EQ(segment.key_begin, next);
    EXPECT_EQ(segment.first_position, 0);
    next += segment.query_count;
  }
  EXPECT_EQ(next, batch.size());
  EXPECT_THAT(batch.tokens, ElementsAre(5, 6, 7, 0, 0, 8, 5, 6, 7, 0, 0));
  EXPECT_THAT(batch.loss_weights, ElementsAre(1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0));
}

}  // namespace
}  // namespace salamander
