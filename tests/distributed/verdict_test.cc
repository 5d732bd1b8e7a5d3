#include "model/parallel/watch/verdict.h"

#include <cstring>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

CollectiveCall Call(int64_t number, const char* operation = "all-reduce (sum)") {
  CollectiveCall call{.number = number, .bytes = 8, .begun_ns = 1'000'000'000};
  std::strncpy(call.group, "data", sizeof(call.group) - 1);
  std::strncpy(call.operation, operation, sizeof(call.operation) - 1);
  return call;
}

DatedRecord In(int rank, const CollectiveCall& call) {
  DatedRecord dated;
  dated.now_ns = 61'000'000'000;
  dated.record.rank = rank;
  dated.record.last = dated.record.oldest_open = call;
  return dated;
}

DatedRecord After(int rank, const CollectiveCall& call) {
  DatedRecord dated = In(rank, call);
  dated.record.oldest_open = {};
  dated.record.last_ended_ns = 2'000'000'000;
  return dated;
}

TEST(VerdictTest, ARankThatIsInNoCollectiveDidNotCome) {
  // Rank 1 waits in an earlier one, for rank 2.
  const Fault fault = FindFault({In(0, Call(9)), In(1, Call(7)), After(2, Call(6))}, 0);
  EXPECT_THAT(fault.at_fault, ElementsAre(2));
  EXPECT_THAT(fault.what, HasSubstr("did not come to a collective which rank 0 waits in: number 9, "
                                    "all-reduce (sum) of 8 bytes in group data, begun 60 s ago"));
}

TEST(VerdictTest, RanksInAnEarlierCollectiveKeepTheOthers) {
  const Fault fault = FindFault({In(0, Call(9)), In(1, Call(7)), In(2, Call(7))}, 0);
  EXPECT_THAT(fault.at_fault, ElementsAre(1, 2));
  EXPECT_THAT(fault.what, HasSubstr("earlier"));
}

TEST(VerdictTest, ARankThatCallsTheSameCollectiveOtherwiseIsInTheWrongOne) {
  const Fault fault = FindFault({In(0, Call(9)), In(1, Call(9, "broadcast")), In(2, Call(9))}, 1);
  EXPECT_THAT(fault.at_fault, ElementsAre(1));
  EXPECT_THAT(fault.what, HasSubstr("another collective than the others, all-reduce (sum)"));
}

TEST(VerdictTest, NobodyIsToBlameWhereAllAreInTheSame) {
  const Fault fault = FindFault({In(0, Call(9)), In(1, Call(9))}, 0);
  EXPECT_THAT(fault.at_fault, IsEmpty());
  EXPECT_THAT(fault.what, HasSubstr("network"));
}

TEST(VerdictTest, SaysWhetherALossIsKnownToItsEnd) {
  DatedRecord lost = After(3, Call(9));
  EXPECT_THAT(LossText(lost, "is gone"),
              HasSubstr("is gone; its last collective, when last heard of: number 9, "));
  lost.is_final = true;
  EXPECT_THAT(LossText(lost, "is gone"), HasSubstr("is gone; its last collective: number 9, "));
}

}  // namespace
}  // namespace salamander
