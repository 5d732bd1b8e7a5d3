#include "model/parallel/collective_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

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
}

void CollectiveWatch::Enqueued(const char* operation, int64_t bytes) {
  const auto patience = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(options_.timeout_seconds));
  const std::lock_guard<std::mutex> lock(mutex_);
  pending_.push_back({operation, ++enqueued_, bytes, Clock::now() + patience});
}

absl::Status CollectiveWatch::Look() {
  const auto ended = options_.ended();
  while (ended.ok() && !pending_.empty() && pending_.front().number <= *ended) pending_.pop_front();
  if (pending_.empty()) return Annotate(ended.status(), absl::StrCat("rank ", options_.rank));
  const Pending& oldest = pending_.front();
  const std::string what = absl::StrCat("rank ", options_.rank, ": ", oldest.operation, " number ",
                                        oldest.number, " of ", oldest.bytes, " bytes");
  if (!ended.ok()) return Annotate(ended.status(), absl::StrCat(what, " failed"));
  if (Clock::now() < oldest.deadline) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat(what, " did not end within ", options_.timeout_seconds,
                   " seconds; another rank has died, hangs, or is in another collective: look for "
                   "the first rank that failed in the job's output"));
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
