// Tests of several ranks on GPUs, at whatever number of ranks the program is started with. Ranks
// take the GPUs in turn and share them where there are more ranks; NCCL only runs where they do
// not.
#ifndef TESTS_GPU_RANKS_ON_GPU_H_
#define TESTS_GPU_RANKS_ON_GPU_H_

#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "absl/status/statusor.h"

#include "kernels/device.h"
#include "model/parallel/communicator.h"
#include "model/parallel/nccl_communicator.h"

namespace salamander {

#ifdef SALAMANDER_HAS_NCCL
inline constexpr bool kHasNccl = true;
#else
inline constexpr bool kHasNccl = false;
#endif

class RanksOnGpu : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // All ranks, for memory of the host.
  std::unique_ptr<Communicator> Host();

  // All ranks, by NCCL. Fails with kFailedPrecondition, and why, where it cannot run here.
  absl::StatusOr<std::unique_ptr<Communicator>> Nccl(const NcclOptions& options);

  // Element i of rank r holds (i mod 1000) + r: sums of few ranks are exact in fp32.
  TensorView Numbers(int64_t size, int rank);
  std::vector<float> Read(const TensorView& tensor);

  std::unique_ptr<DeviceSession> session_;
  Arena arena_ = Arena::Adopt(nullptr, 0, nullptr);
  ExecutionContext context_;
};

}  // namespace salamander

#endif  // TESTS_GPU_RANKS_ON_GPU_H_
