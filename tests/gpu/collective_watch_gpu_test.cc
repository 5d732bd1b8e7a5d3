// The watch of NCCL's collectives on a device that does not go on.
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "kernels/cuda/stream.h"
#include "tests/distributed/world.h"
#include "tests/gpu/ranks_on_gpu.h"

namespace salamander {
namespace {

using testing::HasSubstr;

class CollectiveWatchGpuTest : public RanksOnGpu {
 protected:
  void SetUp() override {
    RanksOnGpu::SetUp();
    if (IsSkipped()) return;
    auto ranks =
        Nccl({.execution = context_,
              .timeout_seconds = 1,
              .on_failure = [this](const absl::Status& status) { told_.set_value(status); }});
    if (absl::IsFailedPrecondition(ranks.status())) GTEST_SKIP() << ranks.status().message();
    ASSERT_TRUE(ranks.ok()) << ranks.status();
    ranks_ = *std::move(ranks);
    // The first collective connects the ranks, for which NCCL may wait for the device.
    numbers_ = Numbers(1000, World().rank());
    ASSERT_TRUE(ranks_->AllReduceSum(numbers_).ok());
    ASSERT_TRUE(session_->Wait().ok());
  }

  void ExpectToldOfTheSecondCollective() {
    auto told = told_.get_future();
    ASSERT_EQ(told.wait_for(std::chrono::seconds(60)), std::future_status::ready);
    EXPECT_THAT(std::string(told.get().message()),
                HasSubstr(absl::StrCat("rank ", World().rank(), ": all-reduce (sum) number 2 of ",
                                       numbers_.bytes(), " bytes did not end within 1 seconds")));
  }

  TensorView numbers_;
  std::promise<absl::Status> told_;
  std::unique_ptr<Communicator> ranks_;
};

TEST_F(CollectiveWatchGpuTest, NamesTheCollectiveThatDoesNotEnd) {
  std::promise<void> gate;
  std::future<void> is_open = gate.get_future();
  const auto wait = [](void* opened) { static_cast<std::future<void>*>(opened)->wait(); };
  ASSERT_EQ(cudaLaunchHostFunc(cuda::StreamOf(context_), wait, &is_open), cudaSuccess);
  EXPECT_TRUE(ranks_->AllReduceSum(numbers_).ok());
  ExpectToldOfTheSecondCollective();
  gate.set_value();
  EXPECT_TRUE(session_->Wait().ok());
}

TEST_F(CollectiveWatchGpuTest, ACollectiveThatARankStaysAwayFromIsGivenUp) {
  if (World().size() == 1) GTEST_SKIP() << "needs two ranks with a GPU each: did not run";
  if (World().rank() > 0) {
    EXPECT_TRUE(ranks_->AllReduceSum(numbers_).ok());
    ExpectToldOfTheSecondCollective();
    ranks_.reset();
    EXPECT_TRUE(session_->Wait().ok());
  }
  EXPECT_TRUE(World().Barrier().ok());
}

}  // namespace
}  // namespace salamander
