#include "model/parallel/watch/watch_thread.h"

#include <cstdint>
#include <utility>

#include <sys/eventfd.h>
#include <unistd.h>

#include "kernels/base/logging.h"

namespace salamander {
namespace {

constexpr int kTurnMilliseconds = 100;
constexpr std::chrono::seconds kSecondsToTell{3};

}  // namespace

WatchThread::WatchThread() : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  SALAMANDER_CHECK(wake_ >= 0) << "eventfd failed";
}

WatchThread::~WatchThread() {
  Stop();
  close(wake_);
}

void WatchThread::Start(std::function<bool()> turn) {
  thread_ = std::thread([this, turn = std::move(turn)] {
    while (turn()) continue;
    const std::lock_guard<std::mutex> lock(mutex_);
    is_over_ = true;
    changed_.notify_all();
  });
}

void WatchThread::Stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_stopping_ = true;
  }
  Wake();
  thread_.join();
}

void WatchThread::Fail(absl::string_view what, int exit_code) {
  std::unique_lock<std::mutex> lock(mutex_);
  failure_ = Failure{std::string(what), exit_code};
  Wake();
  changed_.wait_for(lock, kSecondsToTell, [this] { return is_over_; });
}

bool WatchThread::is_stopping() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return is_stopping_;
}

std::optional<WatchThread::Failure> WatchThread::failure() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(failure_, std::nullopt);
}

void WatchThread::Await(std::vector<WatchedSocket> sockets) const {
  sockets.push_back({wake_, false});
  AwaitSockets(sockets, kTurnMilliseconds);
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(wake_, &count, sizeof(count));
}

void WatchThread::Wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = write(wake_, &one, sizeof(one));
}

}  // namespace salamander
