// Collectives of tensors on GPUs, at whatever number of ranks the program is started with: by NCCL
// where every rank has a GPU of its own (one rank always has), by way of the host where they share.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/status/statusor.h"

#include "kernels/device.h"
#include "kernels/memory.h"
#include "model/parallel/device_communicator.h"
#include "tests/distributed/world.h"
#include "tests/gpu/gpu_context.h"

namespace salamander {
namespace {

// Longer than a piece of the staged way, and no multiple of anything.
constexpr int64_t kLong = (int64_t{1} << 24) + 12345;

class CommunicatorGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    const int index = World().rank() % CudaDeviceCount();
    session_ = *DeviceSession::Open({DeviceKind::kCuda, index});
    arena_ = *session_->Reserve(int64_t{1} << 28);
    context_ = session_->Context(arena_);
    auto host = World().Split(0);
    ASSERT_TRUE(host.ok());
    auto ranks = DeviceCommunicator(*std::move(host), context_);
    ASSERT_TRUE(ranks.ok()) << ranks.status().ToString();
    ranks_ = *std::move(ranks);
  }
  void TearDown() override {
    if (session_ == nullptr) return;
    EXPECT_TRUE(session_->Wait().ok());
  }

  // Element i of rank r holds (i mod 1000) + r: sums of few ranks are exact in fp32.
  TensorView Numbers(int64_t size, int rank) {
    std::vector<float> values(static_cast<size_t>(size));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(i % 1000) + static_cast<float>(rank);
    return *FromHost<float>(context_, values);
  }
  std::vector<float> Read(const TensorView& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.size()));
    EXPECT_TRUE(CopyToHost(context_, tensor, values.data()).ok());
    return values;
  }

  std::unique_ptr<DeviceSession> session_;
  Arena arena_ = Arena::Adopt(nullptr, 0, nullptr);
  ExecutionContext context_;
  std::unique_ptr<Communicator> ranks_;
};

TEST_F(CommunicatorGpuTest, AllReduceAddsEveryRanksTensor) {
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

TEST_F(CommunicatorGpuTest, BroadcastGivesEveryRankTheRootsTensor) {
  for (int root = 0; root < ranks_->size(); ++root) {
    const ArenaScope scope(arena_);
    const TensorView tensor = Numbers(4097, ranks_->rank());
    ASSERT_TRUE(ranks_->Broadcast(tensor, root).ok());
    const std::vector<float> received = Read(tensor);
    for (size_t i = 0; i < received.size(); ++i)
      ASSERT_EQ(received[i], static_cast<float>(i % 1000) + static_cast<float>(root)) << i;
  }
}

TEST_F(CommunicatorGpuTest, CollectivesFollowWhatTheStreamHoldsAndAreFollowed) {
  // Each collective reads what the one before it left, without a wait between.
  const ArenaScope scope(arena_);
  const TensorView tensor = Numbers(kLong, 0);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(ranks_->AllReduceSum(tensor).ok());
  const auto factor = static_cast<float>(ranks_->size() * ranks_->size() * ranks_->size());
  const std::vector<float> sum = Read(tensor);
  for (size_t i = 0; i < sum.size(); i += 997)
    ASSERT_EQ(sum[i], factor * static_cast<float>(i % 1000)) << i;
}

}  // namespace
}  // namespace salamander
