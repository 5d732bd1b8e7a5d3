#include "kernels/cuda/graph_replay.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace salamander::cuda {
namespace {

constexpr int kMostDivergences = 4;
constexpr int kDirectRuns = 64;

}  // namespace

absl::Status GraphReplay::Run(const std::function<absl::Status()>& enqueue) {
  if (std::exchange(is_first_, false)) return enqueue();
  if (direct_runs_left_ > 0) {
    --direct_runs_left_;
    return enqueue();
  }
  Recording& recording = recordings_[turn_++ % recordings_.size()];
  if (recording == nullptr) return Record(enqueue, recording);
  RETURN_IF_ERROR(recording->Wait());  // for the launch before last
  GraphReviser reviser(*recording);
  const absl::Status status = [&] {
    const Runtime::Redirection redirection(runtime_, reviser);
    return enqueue();
  }();
  if (!reviser.has_diverged()) {
    RETURN_IF_ERROR(status);
    divergences_ = 0;
    return recording->Launch();
  }
  recording = nullptr;
  if (++divergences_ < kMostDivergences) return Record(enqueue, recording);
  divergences_ = 0;
  direct_runs_left_ = kDirectRuns;
  return enqueue();
}

absl::StatusOr<GraphReplay::Recording> GraphReplay::MakeRecording(
    const std::function<absl::Status()>& enqueue) {
  ASSIGN_OR_RETURN(Recording fresh, GraphRecording::Create(runtime_.stream()));
  GraphRecorder recorder(*fresh);
  {
    const Runtime::Redirection redirection(runtime_, recorder);
    RETURN_IF_ERROR(enqueue());
  }
  RETURN_IF_ERROR(fresh->Instantiate());
  return fresh;
}

absl::Status GraphReplay::Record(const std::function<absl::Status()>& enqueue,
                                 Recording& recording) {
  auto made = MakeRecording(enqueue);
  if (absl::IsResourceExhausted(made.status())) {
    cudaGetLastError();  // a refused allocation leaves the device as it was
    direct_runs_left_ = kDirectRuns;
    return enqueue();
  }
  RETURN_IF_ERROR(made.status());
  recording = *std::move(made);
  return recording->Launch();
}

}  // namespace salamander::cuda
