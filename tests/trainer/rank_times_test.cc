#include "trainer/run/rank_times.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

using Value = MetricValue;

TEST(RankTimesTest, GathersTheMeanSinceItLastDid) {
  const auto world = SingleRankCommunicator();
  RankTimes times;
  times.Add(1.0);
  times.Add(2.0);
  const auto first = times.Gather(*world);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->front().seconds, 1.5);
  EXPECT_NE(first->front().host, "");
  times.Add(4.0);
  EXPECT_EQ(times.Gather(*world)->front().seconds, 4.0);
}

TEST(RankTimesTest, MedianOfAnEvenNumberIsTheMeanOfTheMiddle) {
  EXPECT_EQ(MedianSeconds({{3, "a", 4.0}}), 4.0);
  EXPECT_EQ(MedianSeconds({{0, "a", 4.0}, {1, "a", 3.0}, {2, "a", 1.0}}), 3.0);
  EXPECT_EQ(MedianSeconds({{0, "a", 9.0}, {1, "a", 4.0}, {2, "a", 3.0}, {3, "a", 1.0}}), 3.5);
}

TEST(RankTimesTest, MetricsNameTheSlowestWithTheirHosts) {
  EXPECT_THAT(
      RankMetrics({{2, "b", 3.0}, {0, "a", 1.0}}),
      ElementsAre(
          Pair("median_rank_seconds", Value(2.0)), Pair("slowest_1_rank", Value(int64_t{2})),
          Pair("slowest_1_host", Value(std::string("b"))), Pair("slowest_1_seconds", Value(3.0)),
          Pair("slowest_2_rank", Value(int64_t{0})),
          Pair("slowest_2_host", Value(std::string("a"))), Pair("slowest_2_seconds", Value(1.0))));
  const std::vector<RankTime> many(9, RankTime{0, "a", 1.0});
  EXPECT_EQ(RankMetrics(many).size(), 1u + 4 * 3);
}

TEST(RankTimesTest, ComplainsOfARankThatIsSlowTwiceInARow) {
  const std::vector<RankTime> slow = {{5, "b", 1.3}, {1, "a", 1.0}, {0, "a", 0.9}};
  const std::vector<RankTime> other = {{1, "a", 1.3}, {5, "b", 1.0}, {0, "a", 0.9}};
  const std::vector<RankTime> even = {{5, "b", 1.15}, {1, "a", 1.0}, {0, "a", 0.9}};
  RankTimes times;
  EXPECT_EQ(times.Complaint(slow), "");
  EXPECT_THAT(times.Complaint(slow), AllOf(HasSubstr("rank 5 on b is slow"), HasSubstr("1.3 s"),
                                           HasSubstr("the median rank 1 s")));
  EXPECT_EQ(times.Complaint(even), "");
  EXPECT_EQ(times.Complaint(slow), "");
  EXPECT_EQ(times.Complaint(other), "");
}

}  // namespace
}  // namespace salamander
