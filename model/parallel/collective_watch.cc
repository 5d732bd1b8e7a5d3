#include "model/parallel/collective_watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr std::chrono::milliseconds kLookEvery{100};
// Between two looks: the process was stopped meanwhile, and the device's peers with it.
constexpr std::chrono::seconds kPause{3};

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
  while (!pending_.empty()) Pop();
}

void CollectiveWatch::Begin(const char* operation, int64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int64_t logged =
      options_.log == nullptr ? 0 : options_.log->Begin(options_.group, operation, bytes);
  pending_.push_back({operation, ++begun_, bytes, logged, Clock::now()});
}

void CollectiveWatch::Pop() {
  if (options_.log != nullptr) options_.log->End(pending_.front().logged);
  pending_.pop_front();
}

absl::Status CollectiveWatch::Look() {
  const auto ended = options_.ended();
  const auto now = Clock::now();
  if (now - looked_ > kPause) resumed_ = now;
  looked_ = now;
  while (ended.ok() && !pending_.empty() && pending_.front().number <= *ended) Pop();
  if (pending_.empty()) return Annotate(ended.status(), absl::StrCat("rank ", options_.rank));
  const Pending& oldest = pending_.front();
  const std::string what = absl::StrCat("rank ", options_.rank, ": ", oldest.operation, " number ",
                                        oldest.number, " of ", oldest.bytes, " bytes");
  if (!ended.ok()) return Annotate(ended.status(), absl::StrCat(what, " failed"));
  const std::chrono::duration<double> since = now - std::max(oldest.begun, resumed_);
  if (options_.timeout_seconds <= 0 || since.count() < options_.timeout_seconds)
    return absl::OkStatus();
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
