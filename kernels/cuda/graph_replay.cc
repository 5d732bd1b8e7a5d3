#include "kernels/cuda/graph_replay.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace salamander::cuda {
namespace {

constexpr int kMostUnusedRecordings = 4;
constexpr int kDirectRuns = 64;

}  // namespace

absl::Status GraphReplay::Run(const std::function<absl::Status()>& enqueue) {
  if (std::exchange(is_first_, false)) return enqueue();
  if (direct_runs_left_ > 0) {
    --direct_runs_left_;
    return enqueue();
  }
  if (recording_ == nullptr) return Record(enqueue);
  RETURN_IF_ERROR(recording_->Wait());
  GraphReviser reviser(*recording_);
  const absl::Status status = [&] {
    const Runtime::Redirection redirection(runtime_, reviser);
    return enqueue();
  }();
  if (!reviser.has_diverged()) {
    RETURN_IF_ERROR(status);
    unused_recordings_ = 0;
    return recording_->Launch();
  }
  recording_ = nullptr;
  if (++unused_recordings_ < kMostUnusedRecordings) return Record(enqueue);
  unused_recordings_ = 0;
  direct_runs_left_ = kDirectRuns;
  return enqueue();
}

absl::Status GraphReplay::Record(const std::function<absl::Status()>& enqueue) {
  ASSIGN_OR_RETURN(std::unique_ptr<GraphRecording> fresh,
                   GraphRecording::Create(runtime_.stream()));
  GraphRecorder recorder(*fresh);
  {
    const Runtime::Redirection redirection(runtime_, recorder);
    RETURN_IF_ERROR(enqueue());
  }
  RETURN_IF_ERROR(fresh->Instantiate());
  recording_ = std::move(fresh);
  return recording_->Launch();
}

}  // namespace salamander::cuda
