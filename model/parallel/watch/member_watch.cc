#include "model/parallel/watch/member_watch.h"

#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// For rank 0 to read the goodbye. What it reads later it takes for a death, and is ending itself.
constexpr std::chrono::seconds kSecondsToPart{5};

// For the other ranks of a host to read what rank 0 left there, before it is removed.
constexpr std::chrono::milliseconds kTimeToRead{300};

}  // namespace

absl::StatusOr<std::unique_ptr<RankWatch>> MemberWatch::Join(const RankWatchOptions& options,
                                                             const CollectiveLog& log,
                                                             const std::string& addresses) {
  ASSIGN_OR_RETURN(WatchConnection connection,
                   WatchConnect(addresses, WatchMessage::Of(WatchMessageKind::kHello, log.record(),
                                                            options.token)));
  return std::unique_ptr<RankWatch>(new MemberWatch(options, log, std::move(connection)));
}

MemberWatch::MemberWatch(const RankWatchOptions& options, const CollectiveLog& log,
                         WatchConnection connection)
    : options_(options),
      log_(log),
      link_(std::move(connection.link)),
      hub_{connection.answer.record, connection.answer.now_ns} {
  thread_.Start([this] { return Turn(); });
}

MemberWatch::~MemberWatch() {
  thread_.Stop();
}

void MemberWatch::TellFailure(absl::string_view what, int exit_code) {
  thread_.Fail(what, exit_code);
}

bool MemberWatch::Turn() {
  thread_.Await({{link_->socket(), link_->has_unsent()}});
  const auto now = WatchClock::now();
  for (const WatchMessage& message : link_->Exchange()) {
    heard_ = now;
    Take(message);
  }
  if (is_ended_) return End();
  if (parted_.has_value()) return !link_->is_closed() && now - *parted_ < kSecondsToPart;
  if (link_->is_closed()) return EndWithoutHub(kGone);
  // Of a process that was itself stopped, nobody knows what the others did meanwhile.
  if (IsAfter(looked_, options_.limits.silence_seconds / 2, now)) heard_ = now;
  looked_ = now;
  if (IsAfter(heard_, options_.limits.silence_seconds, now))
    return EndWithoutHub(SilentText(options_.limits.silence_seconds));
  if (const auto failure = thread_.failure())
    Send(WatchMessageKind::kFailed, failure->what, failure->exit_code);
  if (thread_.is_stopping()) {
    Send(WatchMessageKind::kGoodbye);
    link_->CloseSending();
    parted_ = now;
  } else if (now - told_ >= kBeat) {
    Send(WatchMessageKind::kAlive);
    told_ = now;
  }
  return true;
}

void MemberWatch::Take(const WatchMessage& message) {
  switch (message.kind) {
    case WatchMessageKind::kAlive:
      hub_ = {message.record, message.now_ns};
      break;
    case WatchMessageKind::kWhatIsLeft:
      if (const auto left = RecordLeftBy(message.record, log_.record(), true); left.has_value())
        link_->Send(WatchMessage::Of(WatchMessageKind::kLeft, left->record));
      break;
    case WatchMessageKind::kTheEnd:
      is_ended_ = true;
      exit_code_ = message.exit_code;
      break;
    default:
      break;
  }
}

void MemberWatch::Send(WatchMessageKind kind, absl::string_view text, int exit_code) {
  link_->Send(WatchMessage::Of(kind, log_.record(), text, exit_code));
}

bool MemberWatch::EndWithoutHub(const std::string& what) {
  if (const auto left = RecordLeftBy(hub_.record, log_.record(), false); left.has_value())
    hub_ = *left;
  options_.tell(absl::StrCat(kJobEnds, LossText(hub_, what)));
  std::this_thread::sleep_for(kTimeToRead);
  RecordLeftBy(hub_.record, log_.record(), true);
  return End();
}

bool MemberWatch::End() {
  options_.tell(SurvivorText(log_.record()));
  options_.end_process(exit_code_);
  return false;
}

}  // namespace salamander
