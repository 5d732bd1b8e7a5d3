#include "trainer/run/workspace.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "model/parallel/placement.h"

namespace salamander {
namespace {

// Of a CUDA device's memory, for each rank on it and for what is not ours: kernels that are loaded
// when first called, and the libraries' own buffers.
constexpr int64_t kLeftOnDevice = int64_t{1} << 30;

// A pass of one short sequence through a small model.
constexpr int64_t kSmallestArena = int64_t{256} << 20;

// On every rank or on none.
absl::Status AgreeOnKind(DeviceKind kind, Communicator& world) {
  std::array<int64_t, 2> has = {kind == DeviceKind::kCpu ? 1 : 0,
                                kind == DeviceKind::kCuda ? 1 : 0};
  RETURN_IF_ERROR(world.AllReduceMax(absl::MakeSpan(has)));
  if (has[0] == 0 || has[1] == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "rank ", world.rank(), " runs on ", kind == DeviceKind::kCpu ? "the CPU" : "CUDA",
      " and others do not; give device: cpu or device: cuda, or start ranks on hosts that are "
      "alike"));
}

}  // namespace

Device DeviceFor(DeviceChoice choice, int rank_on_host, int cuda_devices) {
  if (choice == DeviceChoice::kCpu) return {};
  if (choice == DeviceChoice::kAuto && cuda_devices == 0) return {};
  return {.kind = DeviceKind::kCuda, .index = rank_on_host % std::max(cuda_devices, 1)};
}

absl::StatusOr<std::unique_ptr<DeviceSession>> OpenDevice(DeviceChoice choice, Communicator& world,
                                                          const DeviceOptions& options) {
  ASSIGN_OR_RETURN(const Placement on_host, PlacementOnHost(world));
  const Device device = DeviceFor(choice, on_host.rank, CudaDeviceCount());
  auto session = DeviceSession::Open(device, options);
  RETURN_IF_ERROR(AgreeOnStatus(world, session.status()));
  RETURN_IF_ERROR(AgreeOnKind(device.kind, world));
  if (device.kind == DeviceKind::kCpu) {
    const std::string complaint = choice == DeviceChoice::kAuto ? CudaComplaint() : "";
    if (!complaint.empty()) {
      LogWarning(absl::StrCat("running on the CPU: the NVIDIA driver says ", complaint,
                              "; check `nvidia-smi`"));
    }
    return session;
  }
  ASSIGN_OR_RETURN(const Placement on_device, PlacementOnDevice(device, world));
  (*session)->set_processes(on_device.ranks);
  LogInfo(absl::StrCat(
      "running on ", (*session)->name(),
      on_device.ranks > 1 ? absl::StrCat(", which ", on_device.ranks, " ranks share") : ""));
  return session;
}

absl::StatusOr<int64_t> ShareOfDevice(DeviceSession& session) {
  ASSIGN_OR_RETURN(const int64_t free_bytes, session.FreeBytes());
  return std::max<int64_t>(0, free_bytes / session.processes() - kLeftOnDevice);
}

absl::Status Workspace::ReserveArena(Communicator& world) {
  const bool is_cuda = session_.device().kind == DeviceKind::kCuda;
  const auto share = is_cuda ? ShareOfDevice(session_) : session_.FreeBytes();
  // Every rank has seen what is free before one takes its share.
  RETURN_IF_ERROR(AgreeOnStatus(world, share.status()));
  const int64_t bytes = *share / Arena::kAlignment * Arena::kAlignment;
  absl::Status status;
  if (bytes < kSmallestArena) {
    status = absl::ResourceExhaustedError(
        absl::StrCat("rank ", world.rank(), ": ", session_.name(), " has ", *share,
                     " bytes left beside the weights, too few for a pass; use more devices or "
                     "fewer ranks on each, or a smaller model"));
  } else if (auto arena = session_.ReserveScratch(bytes); arena.ok()) {
    arena_ = *std::move(arena);
  } else {
    status = arena.status();
  }
  return AgreeOnStatus(world, status);
}

void Workspace::ReleaseArena() {
  SALAMANDER_CHECK(arena_.used_bytes() == 0) << "a pass is using the arena";
  arena_ = Arena::Adopt(nullptr, 0, nullptr);
}

}  // namespace salamander
