// Collectives of tensors on GPUs, by either way between them, and which way and place ranks get.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/base/logging.h"
#include "model/parallel/device_communicator.h"
#include "model/parallel/placement.h"
#include "model/parallel/staged_communicator.h"
#include "tests/distributed/world.h"
#include "tests/gpu/ranks_on_gpu.h"

namespace salamander {
namespace {

// Longer than a piece of the staged way, and no multiple of anything.
constexpr int64_t kLong = (int64_t{1} << 24) + 12345;

enum class Way { kNccl, kHost };

class CommunicatorGpuTest : public RanksOnGpu, public testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    RanksOnGpu::SetUp();
    if (IsSkipped()) return;
    if (GetParam() == Way::kHost) {
      ranks_ = StagedCommunicator(Host(), context_);
      return;
    }
    auto ranks = Nccl({.execution = context_, .on_failure = [](const absl::Status& status) {
                         SALAMANDER_CHECK(status.ok()) << status.ToString();
                       }});
    if (absl::IsFailedPrecondition(ranks.status())) GTEST_SKIP() << ranks.status().message();
    ASSERT_TRUE(ranks.ok()) << ranks.status();
    ranks_ = *std::move(ranks);
    ASSERT_EQ(ranks_->transport(), "NCCL");
  }

  std::unique_ptr<Communicator> ranks_;
};

INSTANTIATE_TEST_SUITE_P(Ways, CommunicatorGpuTest, testing::Values(Way::kNccl, Way::kHost),
                         [](const auto& given) {
                           return std::string(given.param == Way::kNccl ? "Nccl" : "Host");
                         });

TEST_P(CommunicatorGpuTest, AllReduceAddsEveryRanksTensor) {
  const int ranks = ranks_->size();
  for (const int64_t size : {int64_t{1}, int64_t{1001}, kLong}) {
    const ArenaScope scope(arena_);
    const TensorView tensor = Numbers(size, ranks_->rank());
    ASSERT_TRUE(ranks_->AllReduceSum(tensor).ok());
    const std::vector<float> sum = Read(tensor);
    float of_ranks = 0;
    for (int rank = 0; rank < ranks; ++rank) of_ranks += static_cast<float>(rank);
    for (size_t i = 0; i < sum.size(); ++i)
      ASSERT_EQ(sum[i], static_cast<float>(ranks) * static_cast<float>(i % 1000) + of_ranks) << i;
  }
}

TEST_P(CommunicatorGpuTest, BroadcastGivesEveryRankTheRootsTensor) {
  for (int root = 0; root < ranks_->size(); ++root) {
    const ArenaScope scope(arena_);
    const TensorView tensor = Numbers(4097, ranks_->rank());
    ASSERT_TRUE(ranks_->Broadcast(tensor, root).ok());
    const std::vector<float> received = Read(tensor);
    for (size_t i = 0; i < received.size(); ++i)
      ASSERT_EQ(received[i], static_cast<float>(i % 1000) + static_cast<float>(root)) << i;
  }
}

// Part `index` of a tensor of a part to each rank, as Numbers(part, rank) made it.
void ExpectNumbers(const std::vector<float>& all, int64_t part, int index, int rank) {
  for (int64_t i = 0; i < part; ++i) {
    ASSERT_EQ(all[static_cast<size_t>(index * part + i)],
              static_cast<float>(i % 1000) + static_cast<float>(rank))
        << "element " << i << " of part " << index;
  }
}

TEST_P(CommunicatorGpuTest, AllGatherReduceScatterAndAllToAllMoveTheRanksParts) {
  const int ranks = ranks_->size(), me = ranks_->rank();
  for (const int64_t part : {int64_t{1}, int64_t{1001}, kLong / 8}) {
    const ArenaScope scope(arena_);
    const TensorView mine = Numbers(part, me);
    const TensorView all = arena_.Tensor(DType::kFloat32, {ranks * part});
    ASSERT_TRUE(ranks_->AllGather(mine, all).ok());
    for (int rank = 0; rank < ranks; ++rank) ExpectNumbers(Read(all), part, rank, rank);

    ASSERT_TRUE(ranks_->ReduceScatterSum(all, mine).ok());
    const std::vector<float> sum = Read(mine);
    for (int64_t i = 0; i < part; ++i) {
      ASSERT_EQ(sum[static_cast<size_t>(i)],
                static_cast<float>(ranks) * static_cast<float>(i % 1000 + me))
          << i;
    }

    const TensorView exchanged = arena_.Tensor(DType::kFloat32, {ranks * part});
    ASSERT_TRUE(ranks_->AllToAll(all, exchanged).ok());
    for (int rank = 0; rank < ranks; ++rank) ExpectNumbers(Read(exchanged), part, rank, me);
  }
}

TEST_P(CommunicatorGpuTest, ShiftHandsTensorsToTheNextRankAndToTheOneBefore) {
  for (const int64_t size : {int64_t{1}, int64_t{1001}, kLong}) {
    for (const int step : {1, -1}) {
      const ArenaScope scope(arena_);
      const TensorView sent = Numbers(size, ranks_->rank());
      const TensorView received = arena_.Tensor(DType::kFloat32, {size});
      ASSERT_TRUE(ranks_->Shift(sent, received, step).ok());
      const int from = ranks_->rank() - step;
      if (from < 0 || from >= ranks_->size()) continue;
      ExpectNumbers(Read(received), size, 0, from);
    }
  }
}

TEST_P(CommunicatorGpuTest, CollectivesFollowWhatTheStreamHoldsAndAreFollowed) {
  // Each collective reads what the one before it left, without a wait between.
  const ArenaScope scope(arena_);
  const TensorView tensor = Numbers(kLong, 0);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(ranks_->AllReduceSum(tensor).ok());
  const auto factor = static_cast<float>(ranks_->size() * ranks_->size() * ranks_->size());
  const std::vector<float> sum = Read(tensor);
  for (size_t i = 0; i < sum.size(); i += 997)
    ASSERT_EQ(sum[i], factor * static_cast<float>(i % 1000)) << i;
}

using PlacementGpuTest = RanksOnGpu;

TEST_F(PlacementGpuTest, CountsTheRanksOfOneDevice) {
  const auto placement = PlacementOnDevice(context_.device, World());
  ASSERT_TRUE(placement.ok()) << placement.status();
  const int devices = CudaDeviceCount(), rank = World().rank();
  EXPECT_EQ(placement->rank, rank / devices);
  EXPECT_EQ(placement->ranks, (World().size() - rank % devices + devices - 1) / devices);
}

using DeviceCommunicatorGpuTest = RanksOnGpu;

TEST_F(DeviceCommunicatorGpuTest, TakesNcclWhereEveryRankHasAGpuOfItsOwn) {
  const auto ranks = DeviceCommunicator(Host(), context_);
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  const bool has_own_device = World().size() <= CudaDeviceCount();
  EXPECT_EQ((*ranks)->transport(), World().size() == 1          ? "nothing"
                                   : has_own_device && kHasNccl ? "NCCL"
                                                                : "MPI by way of the host");
}

}  // namespace
}  // namespace salamander
