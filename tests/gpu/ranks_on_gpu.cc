#include "tests/gpu/ranks_on_gpu.h"

#include <utility>

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/parallel/placement.h"
#include "tests/distributed/world.h"
#include "tests/gpu/gpu_context.h"

namespace salamander {

void RanksOnGpu::SetUp() {
  SKIP_WITHOUT_GPU();
  const int index = World().rank() % CudaDeviceCount();
  session_ = *DeviceSession::Open({DeviceKind::kCuda, index});
  arena_ = *session_->Reserve(int64_t{1} << 28);
  context_ = session_->Context(arena_);
}

void RanksOnGpu::TearDown() {
  if (session_ == nullptr) return;
  EXPECT_TRUE(session_->Wait().ok());
}

std::unique_ptr<Communicator> RanksOnGpu::Host() {
  auto host = World().Split(0, "test");
  SALAMANDER_CHECK(host.ok()) << host.status().ToString();
  return *std::move(host);
}

absl::StatusOr<std::unique_ptr<Communicator>> RanksOnGpu::Nccl(
    [[maybe_unused]] const NcclOptions& options) {
#ifdef SALAMANDER_HAS_NCCL
  ASSIGN_OR_RETURN(const bool has_own_device, HasOwnDeviceEach(context_.device, World()));
  if (has_own_device) return NcclCommunicator(Host(), options);
  return absl::FailedPreconditionError("ranks share a GPU here: NCCL did not run");
#else
  return absl::FailedPreconditionError("built without NCCL: it did not run");
#endif
}

TensorView RanksOnGpu::Numbers(int64_t size, int rank) {
  std::vector<float> values(static_cast<size_t>(size));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i % 1000) + static_cast<float>(rank);
  return *FromHost<float>(context_, values);
}

std::vector<float> RanksOnGpu::Read(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  EXPECT_TRUE(CopyToHost(context_, tensor, values.data()).ok());
  return values;
}

}  // namespace salamander
