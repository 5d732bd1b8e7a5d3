// The device that a process runs its ops on: opened once, the source of the execution contexts and
// of the memory behind every tensor. The CPU is a device like the others.
#ifndef KERNELS_DEVICE_H_
#define KERNELS_DEVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/arena.h"
#include "kernels/base/execution_context.h"

namespace salamander {

// What a session's execution contexts ask of every op.
struct DeviceOptions {
  bool is_deterministic = false;  // ExecutionContext says what that means
};

// CUDA devices that this process could open: 0 in a build without CUDA, or without driver or GPU.
int CudaDeviceCount();

// Why that is 0 although a driver is installed; empty where there is none, or no GPU, or no fault.
std::string CudaComplaint();

// Tells a CUDA device from all others, of this host and of any other: equal for two processes that
// see the same one, under whatever index. Fails where there is no such device.
absl::StatusOr<std::string> DeviceIdentity(const Device& device);

// Ops that are enqueued again and again, as the steps of a generation are: after the first time a
// CUDA device is handed all of them at once.
class Replay {
 public:
  virtual ~Replay() = default;

  // Enqueues what `enqueue` does. Requires: `enqueue` may be called twice, and waits for nothing;
  // only what it uploads or copies on the device passes from the host to the ops.
  virtual absl::Status Run(const std::function<absl::Status()>& enqueue) = 0;
};

// The fastest that a device runs at; 0 where it does not say.
struct DeviceClocks {
  int64_t core_hertz = 0;
  int64_t memory_hertz = 0;
};

class DeviceSession {
 public:
  // Fails where the build has no CUDA backend, where there is no such device, or where the device
  // or its driver is too old, naming what was found and what is needed.
  static absl::StatusOr<std::unique_ptr<DeviceSession>> Open(const Device& device,
                                                             const DeviceOptions& options = {});

  virtual ~DeviceSession() = default;

  virtual Device device() const = 0;
  virtual std::string name() const = 0;  // "NVIDIA H200", "CPU"
  virtual DeviceClocks clocks() const { return {}; }

  // Scratch comes from `arena`, which was reserved from this session and outlives the context.
  virtual ExecutionContext Context(Arena& arena) = 0;

  // Zero-filled memory of the device. Fails where it has not so much left, naming both sizes.
  virtual absl::StatusOr<Arena> Reserve(int64_t bytes) = 0;

  // The same with any contents, for an arena that passes take their memory from.
  virtual absl::StatusOr<Arena> ReserveScratch(int64_t bytes) { return Reserve(bytes); }

  // What Reserve can still give. On the CPU: the machine's memory, whoever uses it.
  virtual absl::StatusOr<int64_t> FreeBytes() = 0;

  // Returns when everything enqueued so far is done, with the first fault a kernel met: a token
  // outside the vocabulary, say, or an error of the device.
  virtual absl::Status Wait() = 0;

  virtual std::unique_ptr<Replay> NewReplay() = 0;

  // Calls `enqueue` without any op computing: what it takes from an Arena::Planned tells how much
  // memory it needs. What it brings to the host is zero. Fails on the CPU, where ops compute as
  // they are called.
  virtual absl::Status Plan(const std::function<absl::Status()>& enqueue) = 0;

  // What planned ops take their memory from.
  virtual Arena PlannedMemory() { return Arena::Planned(); }

  // Seconds that each of `repetitions` calls of `enqueue` took on the device, with its caches
  // flushed before each, after two calls that are not counted. Waits.
  virtual absl::StatusOr<std::vector<double>> Time(const std::function<absl::Status()>& enqueue,
                                                   int repetitions) = 0;

  // The element type of parameters and activations here: fp32 on the CPU, bf16 on CUDA.
  DType activation_dtype() const {
    return device().kind == DeviceKind::kCpu ? DType::kFloat32 : DType::kBFloat16;
  }

  // How many processes of the job have opened this device, this one among them: as many share what
  // FreeBytes says. Whoever knows them says so.
  int processes() const { return processes_; }
  void set_processes(int processes) { processes_ = processes; }

 private:
  int processes_ = 1;
};

}  // namespace salamander

#endif  // KERNELS_DEVICE_H_
