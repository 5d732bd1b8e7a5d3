#include "model/parallel/collective_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/status.h"

namespace salamander {
namespace {

constexpr std::chrono::milliseconds kLookEvery{100};

}  // namespace

CollectiveWatch::CollectiveWatch(Options options) : options_(std::move(options)) {
  thread_ = std::thread([this] { Watch(); });
}

CollectiveWatch::~CollectiveWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
  for (const Pending& pending : pending_) cudaEventDestroy(pending.end);
  for (const cudaEvent_t event : spare_) cudaEventDestroy(event);
}

absl::StatusOr<cudaEvent_t> CollectiveWatch::TakeEvent() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cudaEvent_t event = nullptr;
  if (spare_.empty()) {
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  } else {
    event = spare_.back();
    spare_.pop_back();
  }
  return event;
}

absl::Status CollectiveWatch::Enqueued(const char* operation, int64_t bytes) {
  ASSIGN_OR_RETURN(const cudaEvent_t end, TakeEvent());
  RETURN_IF_CUDA_ERROR(cudaEventRecord(end, options_.stream));
  const auto patience = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(options_.timeout_seconds));
  const std::lock_guard<std::mutex> lock(mutex_);
  pending_.push_back({operation, ++sequence_, bytes, end, Clock::now() + patience});
  return absl::OkStatus();
}

absl::Status CollectiveWatch::Look() {
  while (!pending_.empty() && cudaEventQuery(pending_.front().end) == cudaSuccess) {
    spare_.push_back(pending_.front().end);
    pending_.pop_front();
  }
  ncclResult_t result = ncclSuccess;
  ncclCommGetAsyncError(options_.communicator, &result);
  const std::string what = pending_.empty() ? std::string("no collective under way")
                                            : absl::StrCat(pending_.front().operation, " number ",
                                                           pending_.front().sequence, " of ",
                                                           pending_.front().bytes, " bytes");
  if (result != ncclSuccess && result != ncclInProgress) {
    return absl::UnavailableError(
        absl::StrCat("rank ", options_.rank, ": NCCL failed in ", what, ": ",
                     ncclGetErrorString(result), " (", ncclGetLastError(options_.communicator),
                     "); look for the first rank that died in the job's output"));
  }
  if (pending_.empty() || Clock::now() < pending_.front().deadline) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(
      "rank ", options_.rank, ": ", what, " did not end within ", options_.timeout_seconds,
      " seconds; another rank has died, hangs, or is in another collective"));
}

void CollectiveWatch::Watch() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!changed_.wait_for(lock, kLookEvery, [this] { return ending_; })) {
    const absl::Status status = Look();
    if (status.ok()) continue;
    lock.unlock();
    options_.on_failure(status);
    return;
  }
}

}  // namespace salamander
