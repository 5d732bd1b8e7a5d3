#include "model/parallel/state_exchange.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "data/sequences/context_slice.h"

namespace salamander {
namespace {

PackedStream StreamOf(const std::vector<int64_t>& documents) {
  PackedStream stream;
  for (const int64_t length : documents)
    AppendPiece(std::vector<int32_t>(static_cast<size_t>(length), 1), -1, {}, &stream);
  return stream;
}

int64_t DocumentOf(const PackedStream& stream, int64_t row) {
  int64_t document = 0;
  while (stream.segments[static_cast<size_t>(document)].query_begin +
             stream.segments[static_cast<size_t>(document)].query_count <=
         row) {
    ++document;
  }
  return document;
}

// By rows: the last of one slice and the first of a later one are of one document or not.
TEST(StateExchangeTest, WeightsJoinSlicesThatADocumentJoins) {
  const std::vector<double> slopes = {0.0, 0.25};
  for (const std::vector<int64_t>& documents : {std::vector<int64_t>{48},
                                                {12, 12, 12, 12},
                                                {1, 47},
                                                {47, 1},
                                                {11, 1, 1, 11, 24},
                                                {13, 22, 13},
                                                {5, 5, 5, 5, 5, 5, 5, 5, 5, 3},
                                                {30, 18}}) {
    const PackedStream stream = StreamOf(documents);
    for (const int ranks : {1, 2, 3, 4, 6, 12, 48}) {
      const int64_t tokens = stream.size() / ranks;
      for (int rank = 0; rank < ranks; ++rank) {
        SCOPED_TRACE(testing::PrintToString(documents) + " rank " + std::to_string(rank) + " of " +
                     std::to_string(ranks));
        const PackedStream slice = SliceOf(stream, rank, ranks);
        const SliceEdges edges = EdgesOf(slice.segments, rank, ranks);
        const std::vector<double> earlier = WeightsOfEarlier(edges, slopes);
        const std::vector<double> later = WeightsOfLater(edges, slopes);
        for (int other = 0; other < ranks; ++other) {
          const int64_t low = std::min(rank, other), high = std::max(rank, other);
          const bool is_joined = low < high && DocumentOf(stream, (low + 1) * tokens - 1) ==
                                                   DocumentOf(stream, high * tokens);
          for (size_t head = 0; head < slopes.size(); ++head) {
            const double decay =
                std::exp(-slopes[head] * static_cast<double>((high - low - 1) * tokens));
            const size_t at = static_cast<size_t>(other) * slopes.size() + head;
            EXPECT_EQ(earlier[at], is_joined && other < rank ? decay : 0.0);
            EXPECT_EQ(later[at], is_joined && other > rank ? decay : 0.0);
          }
        }
      }
    }
  }
}

TEST(StateExchangeTest, AStateIsForgottenWhereItsDecayOverASliceIsZeroInItsType) {
  const std::vector<double> slopes = {0.25, 4.0};
  EXPECT_FALSE(ForgetsSlices(DType::kFloat32, slopes, 412));  // exp(-103) is a denormal
  EXPECT_TRUE(ForgetsSlices(DType::kFloat32, slopes, 417));
  EXPECT_FALSE(ForgetsSlices(DType::kFloat64, slopes, 417));
  EXPECT_TRUE(ForgetsSlices(DType::kFloat64, slopes, 3000));
  EXPECT_FALSE(ForgetsSlices(DType::kFloat32, std::vector<double>{0.0}, int64_t{1} << 40));
}

TEST(StateExchangeDeathTest, ADocumentThatIsLongerThanTheOtherSlicesIsRefused) {
  const std::vector<Segment> segments = {{.query_count = 4, .first_position = 9}};
  EXPECT_DEATH(WeightsOfEarlier(EdgesOf(segments, 1, 2), std::vector<double>{0.5}),
               "9 tokens beyond slice 1 of 2 slices of 4");
}

}  // namespace
}  // namespace salamander
