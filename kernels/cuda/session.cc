#include "kernels/cuda/session.h"

#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/graph_replay.h"
#include "kernels/cuda/queue/planning_queue.h"
#include "kernels/cuda/queue/status.h"
#include "kernels/cuda/requirements.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

void Free(void* base, int64_t /*capacity_bytes*/) {
  cudaFree(base);
}

absl::Status CheckThisDriver() {
  int driver = 0, runtime = 0;
  RETURN_IF_CUDA_ERROR(cudaDriverGetVersion(&driver));
  RETURN_IF_CUDA_ERROR(cudaRuntimeGetVersion(&runtime));
  return CheckDriver(driver, runtime);
}

constexpr int kWarmUpRuns = 2;

class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  absl::Status Create() {
    RETURN_IF_CUDA_ERROR(cudaEventCreate(&event_));
    return absl::OkStatus();
  }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class Session : public DeviceSession {
 public:
  Session(int index, const DeviceOptions& options, std::unique_ptr<Runtime> runtime)
      : index_(index), options_(options), runtime_(std::move(runtime)) {}

  Device device() const override { return {DeviceKind::kCuda, index_}; }
  std::string name() const override { return runtime_->properties().name; }
  DeviceClocks clocks() const override {
    return {.core_hertz = Hertz(cudaDevAttrClockRate),
            .memory_hertz = Hertz(cudaDevAttrMemoryClockRate)};
  }
  ExecutionContext Context(Arena& arena) override {
    return {.device = device(),
            .arena = &arena,
            .cuda = runtime_.get(),
            .is_deterministic = options_.is_deterministic};
  }

  absl::StatusOr<Arena> Reserve(int64_t bytes) override {
    ASSIGN_OR_RETURN(Arena arena, ReserveScratch(bytes));
    RETURN_IF_CUDA_ERROR(
        cudaMemsetAsync(arena.Allocate(0), 0, static_cast<size_t>(bytes), runtime_->stream()));
    return arena;
  }

  absl::StatusOr<Arena> ReserveScratch(int64_t bytes) override {
    void* base = nullptr;
    if (cudaMalloc(&base, static_cast<size_t>(bytes)) == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // a refused allocation leaves the device as it was
      ASSIGN_OR_RETURN(const int64_t free_bytes, FreeBytes());
      return absl::ResourceExhaustedError(
          absl::StrCat(name(), " has ", free_bytes, " bytes left and ", bytes,
                       " were asked for; use shorter sequences, smaller micro-batches or more "
                       "recomputation"));
    }
    RETURN_IF_CUDA_ERROR(cudaGetLastError());
    return Arena::Adopt(base, bytes, Free);
  }

  absl::StatusOr<int64_t> FreeBytes() override {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free_bytes, &total_bytes));
    return static_cast<int64_t>(free_bytes);
  }

  absl::Status Wait() override { return runtime_->Wait(); }
  std::unique_ptr<Replay> NewReplay() override { return std::make_unique<GraphReplay>(*runtime_); }
  absl::Status Plan(const std::function<absl::Status()>& enqueue) override {
    PlanningQueue nowhere;
    const Runtime::Redirection redirection(*runtime_, nowhere);
    return enqueue();
  }
  absl::StatusOr<std::vector<double>> Time(const std::function<absl::Status()>& enqueue,
                                           int repetitions) override;

 private:
  // Of an attribute in kilohertz; 0 where the driver does not tell.
  int64_t Hertz(cudaDeviceAttr rate) const {
    int kilohertz = 0;
    if (cudaDeviceGetAttribute(&kilohertz, rate, index_) == cudaSuccess)
      return int64_t{kilohertz} * 1000;
    cudaGetLastError();
    return 0;
  }

  int index_;
  DeviceOptions options_;
  std::unique_ptr<Runtime> runtime_;
};

absl::StatusOr<std::vector<double>> Session::Time(const std::function<absl::Status()>& enqueue,
                                                  int repetitions) {
  const auto flush_bytes = static_cast<int64_t>(2) * runtime_->properties().l2CacheSize;
  ASSIGN_OR_RETURN(Arena flush, Reserve(flush_bytes));
  Event start, end;
  RETURN_IF_ERROR(start.Create());
  RETURN_IF_ERROR(end.Create());
  std::vector<double> seconds;
  for (int run = -kWarmUpRuns; run < repetitions; ++run) {
    RETURN_IF_CUDA_ERROR(cudaMemsetAsync(flush.Allocate(0), run & 0xFF,
                                         static_cast<size_t>(flush_bytes), runtime_->stream()));
    RETURN_IF_CUDA_ERROR(cudaEventRecord(start.get(), runtime_->stream()));
    RETURN_IF_ERROR(enqueue());
    RETURN_IF_CUDA_ERROR(cudaEventRecord(end.get(), runtime_->stream()));
    RETURN_IF_ERROR(Wait());
    float milliseconds = 0.0F;
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&milliseconds, start.get(), end.get()));
    if (run >= 0) seconds.push_back(static_cast<double>(milliseconds) * 1e-3);
  }
  return seconds;
}

}  // namespace

std::string Complaint() {
  int count = 0;
  int driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) cudaGetLastError();
  const bool has_driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
  if (error == cudaSuccess || error == cudaErrorNoDevice || !has_driver) return "";
  return cudaGetErrorString(error);
}

int DeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

absl::StatusOr<std::string> IdentityOf(int index) {
  cudaDeviceProp properties;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, index));
  return std::string(properties.uuid.bytes, sizeof(properties.uuid.bytes));
}

absl::StatusOr<std::unique_ptr<DeviceSession>> OpenSession(int index,
                                                           const DeviceOptions& options) {
  RETURN_IF_ERROR(CheckThisDriver());
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();
    return absl::FailedPreconditionError(
        absl::StrCat("device: cuda was asked for and the driver says ", cudaGetErrorString(error),
                     "; check `nvidia-smi`, or use device: cpu"));
  }
  if (index < 0 || index >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuda device ", index, " was asked for and this process sees ", count,
                     "; start fewer ranks on this host, or check CUDA_VISIBLE_DEVICES"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Runtime> runtime, Runtime::Create(index));
  return std::make_unique<Session>(index, options, std::move(runtime));
}

}  // namespace salamander::cuda
