// The CPU as a device that plans: what it is to plan it computes, in memory that is committed as it
// is touched, so that what passes take is known without a GPU. For small models.
#ifndef TESTS_TRAINER_PLANNING_DEVICE_H_
#define TESTS_TRAINER_PLANNING_DEVICE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace salamander {

class PlanningDevice : public DeviceSession {
 public:
  Device device() const override { return {}; }
  std::string name() const override { return "planning device"; }
  ExecutionContext Context(Arena& arena) override { return {.device = {}, .arena = &arena}; }
  absl::StatusOr<Arena> Reserve(int64_t) override {
    return absl::UnimplementedError("a planning device holds nothing");
  }
  absl::StatusOr<int64_t> FreeBytes() override { return int64_t{1} << 34; }
  absl::Status Wait() override { return absl::OkStatus(); }
  std::unique_ptr<Replay> NewReplay() override { return nullptr; }
  absl::Status Plan(const std::function<absl::Status()>& enqueue) override { return enqueue(); }
  Arena PlannedMemory() override { return *Arena::Reserve(int64_t{1} << 34); }
  absl::StatusOr<std::vector<double>> Time(const std::function<absl::Status()>&, int) override {
    return absl::UnimplementedError("a planning device has no clock");
  }
};

}  // namespace salamander

#endif  // TESTS_TRAINER_PLANNING_DEVICE_H_
