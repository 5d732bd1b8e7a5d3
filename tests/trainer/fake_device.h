// A device that is none: a session which says that it is CUDA's while its memory and its ops are
// the host's. What a command does for the sake of a device (copies, rounding, the way back) runs
// anywhere on it; a model's passes do not, for the CPU computes nothing in bf16.
#ifndef TESTS_TRAINER_FAKE_DEVICE_H_
#define TESTS_TRAINER_FAKE_DEVICE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "kernels/device.h"

namespace salamander {

class FakeDevice : public DeviceSession {
 public:
  explicit FakeDevice(int64_t free_bytes = int64_t{4} << 30) : free_bytes_(free_bytes) {}

  Device device() const override { return {DeviceKind::kCuda, 0}; }
  std::string name() const override { return "fake device"; }
  ExecutionContext Context(Arena& arena) override { return {.device = {}, .arena = &arena}; }
  absl::StatusOr<Arena> Reserve(int64_t bytes) override {
    if (bytes > free_bytes_) return absl::ResourceExhaustedError("the fake device is full");
    free_bytes_ -= bytes;
    return Arena::Reserve(bytes);
  }
  absl::StatusOr<int64_t> FreeBytes() override { return free_bytes_; }
  absl::Status Wait() override { return absl::OkStatus(); }
  std::unique_ptr<Replay> NewReplay() override { return nullptr; }
  absl::Status Plan(const std::function<absl::Status()>&) override {
    return absl::UnimplementedError("a fake device plans nothing");
  }
  absl::StatusOr<std::vector<double>> Time(const std::function<absl::Status()>&, int) override {
    return absl::UnimplementedError("a fake device has no clock");
  }

 private:
  int64_t free_bytes_;
};

}  // namespace salamander

#endif  // TESTS_TRAINER_FAKE_DEVICE_H_
