// Holds for any number of ranks; the build runs it on 1 and 3.
#include "model/parallel/placement.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "tests/distributed/world.h"

namespace salamander {
namespace {

TEST(PlacementTest, CountsTheRanksOfOnePlaceInRankOrder) {
  const int rank = World().rank(), ranks = World().size();
  const auto placement = PlacementAt(absl::StrCat("host ", rank % 2), World());
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->rank, rank / 2);
  EXPECT_EQ(placement->ranks, (ranks + 1 - rank % 2) / 2);
}

TEST(PlacementTest, RanksThatOneLauncherStartedHereAreOnOneHost) {
  const auto placement = PlacementOnHost(World());
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->rank, World().rank());
  EXPECT_EQ(placement->ranks, World().size());
}

}  // namespace
}  // namespace salamander
