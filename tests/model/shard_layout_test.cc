#include "model/shard_layout.h"

#include <vector>

#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"

namespace salamander {
namespace {

TEST(ShardLayoutTest, ShardsHoldEveryElementOnceWhateverABucketHolds) {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    const ParameterLayout layout(TinyHybridConfig(3, {1}), {}, ranks);
    EXPECT_EQ(layout.total_size() % (64 * ranks), 0);
    for (const int64_t bucket : {int64_t{1}, int64_t{1000}, ShardLayout::kBucketElements}) {
      std::vector<int> times(static_cast<size_t>(layout.total_size()), 0);
      for (int rank = 0; rank < ranks; ++rank) {
        const ShardLayout shard(layout, rank, ranks, bucket);
        EXPECT_EQ(shard.size() * ranks, layout.total_size());
        int64_t end = 0;
        for (const ShardLayout::Piece& piece : shard.pieces()) {
          const ParameterSpec& spec = layout.specs()[piece.parameter];
          EXPECT_GE(piece.count, 1);
          EXPECT_LE(piece.begin + piece.count, spec.size());
          EXPECT_EQ(piece.flat_begin, spec.offset + piece.begin);
          EXPECT_GE(piece.shard_begin, end);
          end = piece.shard_begin + piece.count;
          for (int64_t index = 0; index < piece.count; ++index)
            ++times[static_cast<size_t>(piece.flat_begin + index)];
        }
        EXPECT_LE(end, shard.size());
      }
      for (const ParameterSpec& spec : layout.specs()) {
        for (int64_t index = 0; index < spec.size(); ++index)
          ASSERT_EQ(times[static_cast<size_t>(spec.offset + index)], 1) << spec.name;
      }
    }
  }
}

TEST(ShardLayoutTest, BucketsFollowEachOtherAndBoundWhatOneCollectiveMoves) {
  const ParameterLayout layout(TinyHybridConfig(3, {1}), {}, 4);
  const ShardLayout shard(layout, 2, 4, 1000);
  ASSERT_GT(shard.buckets().size(), 3U);
  int64_t begin = 0, shard_begin = 0;
  for (const ShardLayout::Bucket& bucket : shard.buckets()) {
    EXPECT_EQ(bucket.begin, begin);
    EXPECT_EQ(bucket.shard_begin, shard_begin);
    EXPECT_LE(bucket.part * 4, 1000);
    EXPECT_EQ(bucket.part % 64, 0);
    begin += 4 * bucket.part;
    shard_begin += bucket.part;
  }
  EXPECT_EQ(begin, layout.total_size());
}

TEST(ShardLayoutTest, ARankAloneHasEveryParameterInOnePiece) {
  const ParameterLayout layout(TinyHybridConfig(3, {1}));
  const ShardLayout shard(layout, 0, 1, 1000);
  ASSERT_EQ(shard.pieces().size(), layout.specs().size());
  for (const ShardLayout::Piece& piece : shard.pieces()) {
    EXPECT_EQ(piece.count, layout.specs()[piece.parameter].size());
    EXPECT_EQ(piece.shard_begin, piece.flat_begin);
  }
}

}  // namespace
}  // namespace salamander
