#include "model/parallel/mesh.h"

#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace salamander {
namespace {

TEST(MeshTest, RankAndCoordinateAreInverse) {
  const MeshShape shape{.data = 3, .context = 4, .tensor = 2};
  EXPECT_EQ(shape.ranks(), 24);
  for (int rank = 0; rank < shape.ranks(); ++rank)
    EXPECT_EQ(RankOf(shape, CoordinateOf(shape, rank)), rank);
}

TEST(MeshTest, TensorIsInnermostThenContextThenData) {
  const MeshShape shape{.data = 3, .context = 4, .tensor = 2};
  EXPECT_EQ(CoordinateOf(shape, 0), (MeshCoordinate{0, 0, 0}));
  EXPECT_EQ(CoordinateOf(shape, 1), (MeshCoordinate{0, 0, 1}));
  EXPECT_EQ(CoordinateOf(shape, 2), (MeshCoordinate{0, 1, 0}));
  EXPECT_EQ(CoordinateOf(shape, 8), (MeshCoordinate{1, 0, 0}));
  EXPECT_EQ(CoordinateOf(shape, 23), (MeshCoordinate{2, 3, 1}));
}

TEST(MeshTest, DataTakesTheRanksThatContextAndTensorLeave) {
  const auto shape = FitMesh(24, 4, 2);
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(*shape, (MeshShape{.data = 3, .context = 4, .tensor = 2}));
  EXPECT_EQ(*FitMesh(1, 1, 1), MeshShape{});
}

TEST(MeshTest, SizesWhoseProductNoIntHoldsAreRefused) {
  EXPECT_FALSE(FitMesh(8, 1 << 16, 1 << 16).ok());
}

TEST(MeshTest, SizesThatDoNotDivideAreRefusedWithThoseThatDo) {
  const std::vector<std::pair<int, int>> refused = {{5, 1}, {1, 8}, {4, 2}, {12, 2}};
  for (const auto& [context, tensor] : refused) {
    const auto shape = FitMesh(12, context, tensor);
    ASSERT_FALSE(shape.ok()) << context << " x " << tensor;
    EXPECT_THAT(shape.status().message(), testing::HasSubstr("1, 2, 3, 4, 6, 12"));
  }
  EXPECT_FALSE(FitMesh(4, 0, 1).ok());
  EXPECT_FALSE(FitMesh(4, -2, -2).ok());
}

}  // namespace
}  // namespace salamander
