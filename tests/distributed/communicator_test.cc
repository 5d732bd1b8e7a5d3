// Holds for any number of ranks; the build runs it on 1 to 4.
#include "model/parallel/communicator.h"

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "model/parallel/device_communicator.h"
#include "model/parallel/parallel_context.h"
#include "model/parallel/staged_communicator.h"
#include "tests/distributed/world.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

absl::string_view Bytes(const TensorView& view) {
  return {static_cast<const char*>(view.raw()), static_cast<size_t>(view.bytes())};
}

// Every rank holds the first rank's bytes.
void ExpectSameBits(const TensorView& view) {
  const auto all = World().AllGather(Bytes(view));
  ASSERT_TRUE(all.ok()) << all.status();
  for (size_t rank = 1; rank < all->size(); ++rank)
    EXPECT_TRUE((*all)[rank] == all->front()) << "rank " << rank << " holds other bits";
}

// Of rank `rank`, of which each rank makes its own.
TestTensor PartOf(int rank, DType dtype, int64_t rows) {
  return TestTensor::Normal(dtype, {rows, 3}, static_cast<uint64_t>(rank) + 1);
}

// Both ways that tensors of the host travel: whole, and in pieces of 256 bytes.
std::unique_ptr<Communicator> StagedWorld() {
  auto everyone = World().Split(0, "test");
  SALAMANDER_CHECK(everyone.ok()) << everyone.status().ToString();
  return StagedCommunicator(*std::move(everyone), {}, 256);
}

enum class Way { kWhole, kStaged };

class PartsTest : public testing::TestWithParam<std::tuple<Way, DType>> {
 protected:
  Communicator& ranks() { return std::get<0>(GetParam()) == Way::kWhole ? World() : *staged_; }
  static DType dtype() { return std::get<1>(GetParam()); }

 private:
  std::unique_ptr<Communicator> staged_ = StagedWorld();
};

INSTANTIATE_TEST_SUITE_P(WaysAndDTypes, PartsTest,
                         testing::Combine(testing::Values(Way::kWhole, Way::kStaged),
                                          testing::Values(DType::kFloat32, DType::kFloat64,
                                                          DType::kBFloat16)),
                         [](const auto& given) {
                           return std::string(std::get<0>(given.param) == Way::kWhole ? "Whole"
                                                                                      : "Staged") +
                                  std::string(Name(std::get<1>(given.param)));
                         });

constexpr int64_t kPartRows = 67;  // three to six pieces

TEST_P(PartsTest, AllGatherPutsEveryRanksRowsInTheirPlace) {
  const int64_t rows = kPartRows * ranks().size();
  const TestTensor mine = PartOf(ranks().rank(), dtype(), kPartRows);
  TestTensor all(dtype(), {rows, 3});
  const TensorView in_place = all.View().Rows(kPartRows * ranks().rank(), kPartRows);
  ASSERT_TRUE(ranks().AllGather(mine.View(), all.View()).ok());
  for (int pass = 0; pass < 2; ++pass) {
    for (int rank = 0; rank < ranks().size(); ++rank) {
      EXPECT_TRUE(BitwiseEqual(all.View().Rows(kPartRows * rank, kPartRows),
                               PartOf(rank, dtype(), kPartRows).View()))
          << "rank " << rank << (pass == 0 ? "" : " in place");
    }
    ASSERT_TRUE(ranks().AllGather(in_place, all.View()).ok());
  }
}

TEST_P(PartsTest, ReduceScatterGivesEachRankItsRowsOfTheSumInTheOrderOfRanks) {
  const int64_t rows = kPartRows * ranks().size();
  const TestTensor mine = PartOf(ranks().rank(), dtype(), rows);
  const TestTensor sum(dtype(), {kPartRows, 3});
  ASSERT_TRUE(ranks().ReduceScatterSum(mine.View(), sum.View()).ok());
  TestTensor expected(dtype(), {kPartRows, 3});
  for (int64_t i = 0; i < expected.size(); ++i) {
    const int64_t at = kPartRows * 3 * ranks().rank() + i;
    double exact = 0.0;
    float in_fp32 = 0.0F;
    for (int rank = 0; rank < ranks().size(); ++rank) {
      const double part = PartOf(rank, dtype(), rows).At(at);
      exact += part;
      in_fp32 += static_cast<float>(part);
    }
    expected.Set(i, dtype() == DType::kFloat64 ? exact : static_cast<double>(in_fp32));
  }
  EXPECT_TRUE(BitwiseEqual(sum.View(), expected.View()));
}

TEST_P(PartsTest, AllToAllExchangesTheRanksParts) {
  const int64_t rows = kPartRows * ranks().size();
  const TestTensor sent = PartOf(ranks().rank(), dtype(), rows);
  const TestTensor received(dtype(), {rows, 3});
  ASSERT_TRUE(ranks().AllToAll(sent.View(), received.View()).ok());
  for (int rank = 0; rank < ranks().size(); ++rank) {
    EXPECT_TRUE(BitwiseEqual(
        received.View().Rows(kPartRows * rank, kPartRows),
        PartOf(rank, dtype(), rows).View().Rows(kPartRows * ranks().rank(), kPartRows)));
  }
}

TEST_P(PartsTest, ShiftHandsTensorsToTheNextRankAndToTheOneBefore) {
  const int rank = ranks().rank();
  const TestTensor sent = PartOf(rank, dtype(), kPartRows);
  for (const int step : {1, -1}) {
    const Traffic before = ranks().traffic();
    const TestTensor received(dtype(), {kPartRows, 3});
    ASSERT_TRUE(ranks().Shift(sent.View(), received.View(), step).ok());
    const int from = rank - step, to = rank + step;
    if (from >= 0 && from < ranks().size()) {
      EXPECT_TRUE(BitwiseEqual(received.View(), PartOf(from, dtype(), kPartRows).View())) << step;
    }
    const auto index = static_cast<size_t>(Collective::kShift);
    EXPECT_EQ(ranks().traffic()[index].payload_bytes - before[index].payload_bytes,
              to >= 0 && to < ranks().size() ? sent.View().bytes() : 0);
  }
}

TEST_P(PartsTest, CountsCallsAndBytes) {
  const Traffic before = ranks().traffic();
  const int64_t rows = kPartRows * ranks().size();
  const TestTensor mine(dtype(), {kPartRows, 3}), all(dtype(), {rows, 3});
  for (int call = 0; call < 2; ++call) ASSERT_TRUE(ranks().AllGather(mine.View(), all.View()).ok());
  ASSERT_TRUE(ranks().ReduceScatterSum(all.View(), mine.View()).ok());
  const auto counted = [&](Collective collective) {
    const auto index = static_cast<size_t>(collective);
    return CollectiveTraffic{ranks().traffic()[index].calls - before[index].calls,
                             ranks().traffic()[index].payload_bytes - before[index].payload_bytes};
  };
  EXPECT_EQ(counted(Collective::kAllGather), (CollectiveTraffic{2, 2 * all.View().bytes()}));
  EXPECT_EQ(counted(Collective::kReduceScatter), (CollectiveTraffic{1, all.View().bytes()}));
  EXPECT_EQ(counted(Collective::kAllReduce), CollectiveTraffic{});
}

class AllReduceSumTest : public testing::TestWithParam<DType> {};

TEST_P(AllReduceSumTest, GivesTheSumWithTheSameBitsOnEveryRank) {
  constexpr int64_t kRows = 10007;  // no multiple of any vector or message size
  TestTensor sum(DType::kFloat64, {kRows, 3});
  for (int rank = 0; rank < World().size(); ++rank) {
    const TestTensor part =
        TestTensor::Normal(GetParam(), {kRows, 3}, static_cast<uint64_t>(rank) + 1);
    for (int64_t index = 0; index < sum.size(); ++index)
      sum.Set(index, sum.At(index) + part.At(index));
  }
  TestTensor mine =
      TestTensor::Normal(GetParam(), {kRows, 3}, static_cast<uint64_t>(World().rank()) + 1);
  ASSERT_TRUE(World().AllReduceSum(mine.View()).ok());
  EXPECT_LT(MaxAbsDifference(mine.View(), sum.View()),
            GetParam() == DType::kFloat32 ? 2e-6 : 1e-14);
  ExpectSameBits(mine.View());
}

INSTANTIATE_TEST_SUITE_P(DTypes, AllReduceSumTest,
                         testing::Values(DType::kFloat32, DType::kFloat64),
                         [](const auto& given) { return std::string(Name(given.param)); });

TEST(CommunicatorTest, SumsAndMaximaOfValuesReachEveryRank) {
  const int ranks = World().size();
  const double mine = World().rank() + 1;
  std::vector<double> sums = {mine, -2.0 * mine, 0.5};
  ASSERT_TRUE(World().AllReduceSum(absl::MakeSpan(sums)).ok());
  const double total = ranks * (ranks + 1) / 2.0;
  EXPECT_THAT(sums, testing::ElementsAre(total, -2.0 * total, 0.5 * ranks));
  std::vector<int64_t> maxima = {World().rank(), -World().rank(), int64_t{1} << 40};
  ASSERT_TRUE(World().AllReduceMax(absl::MakeSpan(maxima)).ok());
  EXPECT_THAT(maxima, testing::ElementsAre(ranks - 1, 0, int64_t{1} << 40));
}

TEST(CommunicatorTest, BroadcastCopiesAnyRanksBuffer) {
  for (int root = 0; root < World().size(); ++root) {
    TestTensor buffer =
        TestTensor::Normal(DType::kFloat32, {501}, static_cast<uint64_t>(World().rank()) + 10);
    ASSERT_TRUE(World().Broadcast(buffer.View(), root).ok());
    const TestTensor expected =
        TestTensor::Normal(DType::kFloat32, {501}, static_cast<uint64_t>(root) + 10);
    EXPECT_TRUE(BitwiseEqual(buffer.View(), expected.View())) << "root " << root;
  }
}

TEST(CommunicatorTest, AllGatherKeepsTextsOfAnyLengthInRankOrder) {
  const auto text_of = [](int rank) {
    return rank == 0 ? std::string() : std::string(static_cast<size_t>(rank) * 1000, 'a') + '\0';
  };
  const auto texts = World().AllGather(text_of(World().rank()));
  ASSERT_TRUE(texts.ok()) << texts.status();
  ASSERT_EQ(texts->size(), static_cast<size_t>(World().size()));
  for (int rank = 0; rank < World().size(); ++rank)
    EXPECT_TRUE((*texts)[static_cast<size_t>(rank)] == text_of(rank)) << "rank " << rank;
}

TEST(CommunicatorTest, SplitGroupsRanksByColorInRankOrder) {
  const int rank = World().rank(), ranks = World().size();
  const auto group = World().Split(rank % 2, "test");
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_EQ((*group)->size(), (ranks + 1 - rank % 2) / 2);
  EXPECT_EQ((*group)->rank(), rank / 2);
  const auto members = (*group)->AllGather(absl::StrCat(rank));
  ASSERT_TRUE(members.ok()) << members.status();
  for (size_t index = 0; index < members->size(); ++index)
    EXPECT_EQ((*members)[index], absl::StrCat(2 * static_cast<int>(index) + rank % 2));
}

// A rank that hangs in a collective without a record would be told of as one that never came.
TEST(CommunicatorTest, EveryKindOfCollectiveLeavesARecord) {
  if (World().log() == nullptr) GTEST_SKIP() << "runs without a launcher";
  const TestTensor part(DType::kFloat32, {4, 1}), all(DType::kFloat32, {4 * World().size(), 1});
  const TestTensor others(DType::kFloat32, {4 * World().size(), 1});
  std::vector<double> sums(1);
  std::vector<int64_t> maxima(1);
  const std::vector<std::pair<std::string, std::function<absl::Status()>>> kinds = {
      {"all-reduce (sum)", [&] { return World().AllReduceSum(all.View()); }},
      {"broadcast", [&] { return World().Broadcast(all.View(), 0); }},
      {"all-gather", [&] { return World().AllGather(part.View(), all.View()); }},
      {"reduce-scatter (sum)", [&] { return World().ReduceScatterSum(all.View(), part.View()); }},
      {"all-to-all", [&] { return World().AllToAll(all.View(), others.View()); }},
      {"shift", [&] { return World().Shift(all.View(), others.View(), 1); }},
      {"all-reduce (sum)", [&] { return World().AllReduceSum(absl::MakeSpan(sums)); }},
      {"all-reduce (max)", [&] { return World().AllReduceMax(absl::MakeSpan(maxima)); }},
      {"all-gather (text)", [&] { return World().AllGather("text").status(); }},
      {"barrier", [&] { return World().Barrier(); }},
      {"split", [&] { return World().Split(0, "test").status(); }}};
  for (const auto& [operation, call] : kinds) {
    const int64_t before = World().log()->record().last.number;
    ASSERT_TRUE(call().ok()) << operation;
    const CollectiveCall last = World().log()->record().last;
    EXPECT_EQ(last.number, before + 1) << operation;
    EXPECT_EQ(std::string(last.operation), operation);
    EXPECT_EQ(std::string(last.group), "world");
  }
}

TEST(AgreeOnStatusTest, IsOkWhereNoRankFailed) {
  EXPECT_TRUE(AgreeOnStatus(World(), absl::OkStatus()).ok());
}

TEST(AgreeOnStatusTest, TellsEveryRankOfTheFirstFailure) {
  const int last = World().size() - 1;
  const int first = World().size() > 2 ? 1 : last;
  const bool fails = World().rank() == first || World().rank() == last;
  const absl::Status mine =
      fails ? absl::NotFoundError(absl::StrCat("disk ", World().rank(), " is gone"))
            : absl::OkStatus();
  const absl::Status agreed = AgreeOnStatus(World(), mine);
  if (fails) {
    EXPECT_EQ(agreed, mine);
  } else {
    EXPECT_EQ(agreed.message(), absl::StrCat("rank ", first, " failed: disk ", first, " is gone"));
  }
}

TEST(AgreeOnStatusTest, DoesNotTakeAFailureWithoutAMessageForSuccess) {
  const bool fails = World().rank() == World().size() - 1;
  EXPECT_FALSE(AgreeOnStatus(World(), fails ? absl::UnknownError("") : absl::OkStatus()).ok());
}

TEST(AgreeAfterPassesTest, GivesAllRanksCollectivesTheSameNumbersAgain) {
  if (World().log() == nullptr) GTEST_SKIP() << "runs without a launcher";
  const auto own = World().Split(World().rank(), "own");
  ASSERT_TRUE(own.ok()) << own.status();
  for (int call = 0; call < 3 * World().rank(); ++call) ASSERT_TRUE((*own)->Barrier().ok());
  ASSERT_TRUE(AgreeAfterPasses(nullptr, World(), absl::OkStatus()).ok());
  const auto numbers = World().AllGather(absl::StrCat(World().log()->record().last.number));
  ASSERT_TRUE(numbers.ok()) << numbers.status();
  EXPECT_THAT(*numbers, testing::Each(numbers->front()));
}

TEST(StagedCommunicatorTest, TensorsInPiecesGiveWhatTheWholeGives) {
  const auto staged = StagedWorld();
  const auto seed = static_cast<uint64_t>(World().rank()) + 1;
  const TestTensor whole = TestTensor::Normal(DType::kFloat32, {67, 3}, seed);
  const TestTensor pieces = whole;
  ASSERT_TRUE(World().AllReduceSum(whole.View()).ok());
  ASSERT_TRUE(staged->AllReduceSum(pieces.View()).ok());
  EXPECT_LT(MaxAbsDifference(pieces.View(), whole.View()), 2e-6);
  ExpectSameBits(pieces.View());
  for (int root = 0; root < World().size(); ++root) {
    const TestTensor mine = TestTensor::Normal(DType::kFloat64, {100}, seed + 10);
    ASSERT_TRUE(staged->Broadcast(mine.View(), root).ok());
    const TestTensor roots =
        TestTensor::Normal(DType::kFloat64, {100}, static_cast<uint64_t>(root) + 11);
    EXPECT_TRUE(BitwiseEqual(mine.View(), roots.View())) << "root " << root;
  }
}

TEST(StagedCommunicatorTest, AGroupOfOneChangesNothing) {
  const auto alone = StagedWorld()->Split(World().rank(), "test");
  ASSERT_TRUE(alone.ok()) << alone.status();
  ASSERT_EQ((*alone)->size(), 1);
  const TestTensor before = TestTensor::Normal(DType::kFloat32, {67}, 1), after = before;
  ASSERT_TRUE((*alone)->AllReduceSum(after.View()).ok());
  EXPECT_TRUE(BitwiseEqual(after.View(), before.View()));
}

TEST(ParallelContextTest, DataRanksAreAllOfThemInAPurelyDataParallelMesh) {
  const auto shape = FitMesh(World().size(), 1, 1);
  ASSERT_TRUE(shape.ok());
  const auto context = ParallelContext::Create(World(), *shape, {});
  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_EQ(context->data().size(), World().size());
  EXPECT_EQ(context->data().rank(), World().rank());
  EXPECT_EQ(context->coordinate().data, World().rank());
}

TEST(DeviceCommunicatorTest, AGroupOfOneSendsNothingOnAnyDevice) {
  for (const DeviceKind kind : {DeviceKind::kCpu, DeviceKind::kCuda}) {
    auto host = World().Split(World().rank(), "test");
    ASSERT_TRUE(host.ok()) << host.status();
    const auto alone = DeviceCommunicator(*std::move(host), {.device = {kind, 0}});
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_EQ((*alone)->size(), 1);
    EXPECT_EQ((*alone)->transport(), "nothing");
    // Memory that the host cannot read: a device's tensor, say.
    const TensorView tensor(reinterpret_cast<void*>(256), DType::kFloat32, {8});
    EXPECT_TRUE((*alone)->AllReduceSum(tensor).ok());
    EXPECT_TRUE((*alone)->Broadcast(tensor, 0).ok());
  }
}

TEST(ParallelContextTest, EveryAxisHasAGroupOfTheRanksThatDifferOnItAlone) {
  for (int context = 1; context <= World().size(); ++context) {
    for (int tensor = 1; tensor <= World().size(); ++tensor) {
      const auto shape = FitMesh(World().size(), context, tensor);
      if (!shape.ok()) continue;
      const auto parallel = ParallelContext::Create(World(), *shape, {});
      ASSERT_TRUE(parallel.ok()) << parallel.status();
      EXPECT_EQ(parallel->data().size(), shape->data);
      EXPECT_EQ(parallel->context().size(), context);
      EXPECT_EQ(parallel->tensor().size(), tensor);
      EXPECT_EQ(parallel->replicas().size(), shape->data * context);
      const MeshCoordinate& at = parallel->coordinate();
      EXPECT_EQ(parallel->data().rank(), at.data);
      EXPECT_EQ(parallel->context().rank(), at.context);
      EXPECT_EQ(parallel->tensor().rank(), at.tensor);
      EXPECT_EQ(parallel->replicas().rank(), at.data * context + at.context);
    }
  }
}

TEST(ParallelContextTest, ContextRanksSeeTheSameSequences) {
  const auto shape = FitMesh(World().size(), World().size(), 1);
  ASSERT_TRUE(shape.ok());
  const auto context = ParallelContext::Create(World(), *shape, {});
  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_EQ(context->data().size(), 1);
  EXPECT_EQ(context->coordinate().context, World().rank());
}

}  // namespace
}  // namespace salamander
