#include "kernels/device.h"

#include <algorithm>
#include <chrono>

#include <unistd.h>

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#ifdef SALAMANDER_HAS_CUDA
#include "kernels/cuda/session.h"
#endif

namespace salamander {
namespace {

constexpr int kWarmUpRuns = 2;
constexpr size_t kCacheBytes = size_t{64}
                               << 20;  // more than a core's share of any last-level cache

class CpuReplay : public Replay {
 public:
  absl::Status Run(const std::function<absl::Status()>& enqueue) override { return enqueue(); }
};

class CpuSession : public DeviceSession {
 public:
  Device device() const override { return {}; }
  std::string name() const override { return "CPU"; }
  ExecutionContext Context(Arena& arena) override { return {.device = {}, .arena = &arena}; }
  absl::StatusOr<Arena> Reserve(int64_t bytes) override { return Arena::Reserve(bytes); }
  absl::StatusOr<int64_t> FreeBytes() override {
    return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) *
           static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  }
  absl::Status Wait() override { return absl::OkStatus(); }
  std::unique_ptr<Replay> NewReplay() override { return std::make_unique<CpuReplay>(); }
  absl::Status Plan(const std::function<absl::Status()>& /*enqueue*/) override {
    return absl::UnimplementedError("the CPU computes as ops are called and plans nothing");
  }
  absl::StatusOr<std::vector<double>> Time(const std::function<absl::Status()>& enqueue,
                                           int repetitions) override;
};

absl::StatusOr<std::vector<double>> CpuSession::Time(const std::function<absl::Status()>& enqueue,
                                                     int repetitions) {
  using Clock = std::chrono::steady_clock;
  std::vector<char> flush(kCacheBytes);
  std::vector<double> seconds;
  for (int run = -kWarmUpRuns; run < repetitions; ++run) {
    std::fill(flush.begin(), flush.end(), static_cast<char>(run));
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(enqueue());
    const std::chrono::duration<double> taken = Clock::now() - start;
    if (run >= 0) seconds.push_back(taken.count());
  }
  return seconds;
}

}  // namespace

std::string CudaComplaint() {
#ifdef SALAMANDER_HAS_CUDA
  return cuda::Complaint();
#else
  return "";
#endif
}

int CudaDeviceCount() {
#ifdef SALAMANDER_HAS_CUDA
  return cuda::DeviceCount();
#else
  return 0;
#endif
}

absl::StatusOr<std::string> DeviceIdentity(const Device& device) {
  SALAMANDER_CHECK(device.kind == DeviceKind::kCuda) << "the CPU has no identity";
#ifdef SALAMANDER_HAS_CUDA
  return cuda::IdentityOf(device.index);
#else
  return absl::FailedPreconditionError("this program was built without the CUDA toolkit");
#endif
}

absl::StatusOr<std::unique_ptr<DeviceSession>> DeviceSession::Open(
    const Device& device, [[maybe_unused]] const DeviceOptions& options) {
  if (device.kind == DeviceKind::kCpu) return std::make_unique<CpuSession>();
#ifdef SALAMANDER_HAS_CUDA
  return cuda::OpenSession(device.index, options);
#else
  return absl::FailedPreconditionError(
      "device: cuda was asked for and this program was built without the CUDA toolkit; build it "
      "where nvcc is installed, or use device: cpu");
#endif
}

}  // namespace salamander
