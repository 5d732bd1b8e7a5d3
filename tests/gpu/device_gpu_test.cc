// Opening a GPU and taking its memory where that cannot be.
#include <cstdlib>
#include <iostream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "kernels/cuda/requirements.h"
#include "kernels/memory.h"
#include "tests/gpu/gpu_context.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr Device kGpu{DeviceKind::kCuda, 0};

void ExpectRefused(const absl::Status& status, std::initializer_list<std::string> parts) {
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  for (const std::string& part : parts) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

TEST(DeviceRefusalTest, DriverOfAnOlderMajorVersionIsRefusedWithBothVersions) {
  EXPECT_TRUE(cuda::CheckDriver(12040, 12040).ok());
  EXPECT_TRUE(cuda::CheckDriver(12000, 12080).ok());
  EXPECT_TRUE(cuda::CheckDriver(13000, 12040).ok());
  ExpectRefused(cuda::CheckDriver(11080, 12040),
                {"driver serves CUDA 11.8", "built with CUDA 12.4", "update the driver"});
}

TEST(DeviceRefusalTest, MissingDriverIsSaidToBeMissing) {
  ExpectRefused(cuda::CheckDriver(0, 12040),
                {"device: cuda was asked for", "no NVIDIA driver", "use device: cpu"});
}

TEST(DeviceRefusalTest, GpuBeforeAmpereIsRefusedByName) {
  EXPECT_TRUE(cuda::CheckGpu("NVIDIA A100", 8, 0).ok());
  EXPECT_TRUE(cuda::CheckGpu("NVIDIA B200", 10, 0).ok());
  ExpectRefused(cuda::CheckGpu("Tesla V100", 7, 0),
                {"Tesla V100", "7.0", "8.0 (A100) or newer", "use device: cpu"});
}

TEST(DeviceRefusalGpuTest, IndexOfNoGpuIsRefusedWithTheirNumber) {
  SKIP_WITHOUT_GPU();
  const int count = CudaDeviceCount();
  for (const int index : {-1, count, count + 7}) {
    ExpectRefused(DeviceSession::Open({DeviceKind::kCuda, index}).status(),
                  {absl::StrCat("cuda device ", index, " "), absl::StrCat("sees ", count),
                   "start fewer ranks", "CUDA_VISIBLE_DEVICES"});
  }
}

TEST(DeviceRefusalGpuTest, ReservationBeyondWhatIsFreeNamesBothAndLeavesTheRest) {
  SKIP_WITHOUT_GPU();
  const auto session = DeviceSession::Open(kGpu);
  ASSERT_TRUE(session.ok()) << session.status();
  const int64_t bytes = *(*session)->FreeBytes() + (int64_t{1} << 30);
  const absl::Status status = (*session)->Reserve(bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  for (const std::string& part :
       {(*session)->name(), std::string("bytes left"), absl::StrCat(bytes, " were asked for"),
        std::string("use shorter sequences")}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
  auto arena = (*session)->Reserve(int64_t{1} << 20);
  ASSERT_TRUE(arena.ok()) << arena.status();
  const ExecutionContext context = (*session)->Context(*arena);
  EXPECT_TRUE(Zero(context, arena->Tensor(DType::kFloat32, {1000})).ok());
  EXPECT_TRUE((*session)->Wait().ok());
}

// Hides all GPUs from the processes that are started until the end of the scope, and from none that
// has called CUDA before.
class ScopedNoGpu {
 public:
  ScopedNoGpu() {
    const char* const before = std::getenv(kVariable);
    was_set_ = before != nullptr;
    if (was_set_) before_ = before;
    setenv(kVariable, "", 1);
  }
  ~ScopedNoGpu() {
    if (was_set_) {
      setenv(kVariable, before_.c_str(), 1);
    } else {
      unsetenv(kVariable);
    }
  }
  ScopedNoGpu(const ScopedNoGpu&) = delete;
  ScopedNoGpu& operator=(const ScopedNoGpu&) = delete;

 private:
  static constexpr const char* kVariable = "CUDA_VISIBLE_DEVICES";
  bool was_set_;
  std::string before_;
};

TEST(DeviceRefusalDeathTest, NoGpuIsRefusedWithWhatToDo) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the child starts this program anew
  const ScopedNoGpu no_gpu;
  EXPECT_EXIT(
      {
        std::cerr << DeviceSession::Open(kGpu).status().message();
        std::exit(CudaDeviceCount());
      },
      testing::ExitedWithCode(0), "device: cuda was asked for.*use device: cpu");
}

}  // namespace
}  // namespace salamander
