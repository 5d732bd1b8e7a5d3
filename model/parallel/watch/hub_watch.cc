#include "model/parallel/watch/hub_watch.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// mpirun gives the other ranks of a dead one a second.
constexpr std::chrono::milliseconds kTimeToHearAll{300};
constexpr std::chrono::milliseconds kTimeToTellAll{500};

constexpr size_t kMostNamed = 4;

// A rank says hello at once. Programs that connect and say nothing do not add up: of more than the
// job's ranks and these, those that came first are sent away.
constexpr std::chrono::seconds kTimeForHello{5};
constexpr size_t kMostOthers = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<RankWatch>> HubWatch::Open(const RankWatchOptions& options,
                                                          const CollectiveLog& log) {
  ASSIGN_OR_RETURN(std::unique_ptr<WatchDoor> door, WatchDoor::Open());
  return std::unique_ptr<RankWatch>(new HubWatch(options, log, std::move(door)));
}

HubWatch::HubWatch(const RankWatchOptions& options, const CollectiveLog& log,
                   std::unique_ptr<WatchDoor> door)
    : options_(options), log_(log), door_(std::move(door)) {
  thread_.Start([this] { return Turn(); });
}

HubWatch::~HubWatch() {
  thread_.Stop();
}

void HubWatch::TellFailure(absl::string_view what, int exit_code) {
  thread_.Fail(what, exit_code);
}

bool HubWatch::Turn() {
  thread_.Await(Sockets());
  const auto now = WatchClock::now();
  Admit(now);
  Listen(now);
  if (const auto failure = thread_.failure())
    Lose({log_.record(), MonotonicNanoseconds(), true}, FailedText(failure->what),
         failure->exit_code);
  if (verdict_at_.has_value()) {
    if (now < *verdict_at_) return true;
    EndJob();
    return false;
  }
  if (thread_.is_stopping() && members_.empty()) return false;
  if (now - told_ >= kBeat) {
    told_ = now;
    NoticePause(now);
    LookForSilence(now);
    LookForLateness(now);
    const WatchMessage alive = WatchMessage::Of(WatchMessageKind::kAlive, log_.record());
    for (auto& [rank, member] : members_) member.link->Send(alive);
  }
  return true;
}

std::vector<WatchedSocket> HubWatch::Sockets() const {
  std::vector<WatchedSocket> sockets = {{door_->socket(), false}};
  const auto add = [&](const WatchLink& link) {
    if (!link.is_closed()) sockets.push_back({link.socket(), link.has_unsent()});
  };
  for (const auto& stranger : strangers_) add(*stranger.link);
  for (const auto& [rank, member] : members_) add(*member.link);
  return sockets;
}

void HubWatch::Admit(WatchClock::time_point now) {
  const size_t most = static_cast<size_t>(options_.ranks) + kMostOthers;
  for (size_t come = 0; come < most; ++come) {
    auto link = door_->Accept();
    if (link == nullptr) break;
    strangers_.push_back({std::move(link), now});
  }
  for (auto& [link, came] : strangers_) {
    const std::vector<WatchMessage> messages = link->Exchange();
    if (!messages.empty() && IsExpected(messages[0])) {
      link->Send(WatchMessage::Of(WatchMessageKind::kHello, log_.record(), options_.token));
      members_[messages[0].record.rank] = {
          .link = std::move(link), .dated = {messages[0].record, messages[0].now_ns}, .heard = now};
    } else if (!messages.empty() || link->is_closed() || now - came > kTimeForHello) {
      link.reset();
    }
  }
  std::erase_if(strangers_, [](const Stranger& stranger) { return stranger.link == nullptr; });
  if (strangers_.size() > most)
    strangers_.erase(strangers_.begin(), strangers_.end() - static_cast<std::ptrdiff_t>(most));
}

bool HubWatch::IsExpected(const WatchMessage& message) const {
  const int rank = message.record.rank;
  return message.kind == WatchMessageKind::kHello && message.words() == options_.token &&
         rank > 0 && rank < options_.ranks && !members_.contains(rank) && !left_.contains(rank);
}

void HubWatch::Listen(WatchClock::time_point now) {
  for (auto& [rank, member] : members_) {
    for (const WatchMessage& message : member.link->Exchange()) {
      member.heard = now;
      Take(message, member);
    }
    if (member.link->is_closed() && !member.said_goodbye) Lose(member.dated, kGone);
  }
  std::erase_if(members_, [](const auto& entry) {
    return entry.second.said_goodbye && entry.second.link->is_closed();
  });
}

void HubWatch::Take(const WatchMessage& message, Member& member) {
  switch (message.kind) {
    case WatchMessageKind::kAlive:
      member.dated = {message.record, message.now_ns};
      break;
    case WatchMessageKind::kFailed:
      Lose({message.record, message.now_ns, true}, FailedText(message.words()), message.exit_code);
      break;
    case WatchMessageKind::kGoodbye:
      member.said_goodbye = true;
      left_[message.record.rank] = {message.record, message.now_ns, true, true};
      break;
    case WatchMessageKind::kLeft:
      if (const auto loss = losses_.find(message.record.rank); loss != losses_.end())
        loss->second.dated = {message.record, message.now_ns, true};
      break;
    default:
      break;
  }
}

// Of a process that was itself stopped, nobody knows what the others did meanwhile, and a job that
// was stopped as a whole has all its time before it.
void HubWatch::NoticePause(WatchClock::time_point now) {
  if (IsAfter(looked_, kPauseSeconds, now)) resumed_ = now;
  if (IsAfter(looked_, options_.limits.silence_seconds / 2, now)) {
    for (auto& [rank, member] : members_) member.heard = now;
  }
  looked_ = now;
}

void HubWatch::LookForSilence(WatchClock::time_point now) {
  const double limit = options_.limits.silence_seconds;
  const bool is_one_silent = std::any_of(members_.begin(), members_.end(), [&](const auto& entry) {
    return IsAfter(entry.second.heard, limit, now);
  });
  if (!is_one_silent) return;
  // The ranks of a host that is lost fall silent at the same time, but for a beat, and are heard as
  // much apart. One that is only late is not to blame.
  constexpr double kApart = 2 * std::chrono::duration<double>(kBeat).count();
  for (const auto& [rank, member] : members_) {
    if (IsAfter(member.heard, limit - kApart, now)) Lose(member.dated, SilentText(limit));
  }
}

void HubWatch::LookForLateness(WatchClock::time_point now) {
  const double limit = options_.limits.collective_seconds;
  if (!IsAfter(resumed_, limit, now)) return;
  std::vector<DatedRecord> records = {{log_.record(), MonotonicNanoseconds()}};
  for (const auto& [rank, member] : members_) {
    if (!member.said_goodbye) records.push_back(member.dated);
  }
  for (const auto& [rank, dated] : left_) records.push_back(dated);
  const auto seconds_in = [](const DatedRecord& dated) {
    const CollectiveCall& call = dated.record.oldest_open;
    return call.number == 0 ? 0.0 : static_cast<double>(dated.now_ns - call.begun_ns) * 1e-9;
  };
  const auto latest =
      std::max_element(records.begin(), records.end(),
                       [&](const auto& a, const auto& b) { return seconds_in(a) < seconds_in(b); });
  if (seconds_in(*latest) <= limit) return;
  const Fault fault = FindFault(records, static_cast<size_t>(latest - records.begin()));
  for (const size_t index : fault.at_fault) {
    const DatedRecord& dated = records[index];
    Lose(dated, dated.has_left ? LeftText(fault.what) : fault.what);
  }
  if (fault.at_fault.empty()) {
    stuck_ = fault.what;
    Condemn(1);
  }
}

void HubWatch::Lose(const DatedRecord& dated, const std::string& what, int exit_code) {
  if (!losses_.try_emplace(dated.record.rank, Loss{dated, what}).second) return;
  Condemn(exit_code);
  const WatchMessage question = WatchMessage::Of(WatchMessageKind::kWhatIsLeft, dated.record);
  for (auto& [rank, member] : members_) {
    if (absl::string_view(member.dated.record.host) == dated.record.host)
      member.link->Send(question);
  }
}

void HubWatch::Condemn(int exit_code) {
  if (verdict_at_.has_value()) return;
  verdict_at_ = WatchClock::now() + kTimeToHearAll;
  exit_code_ = exit_code;
}

void HubWatch::EndJob() {
  const RankRecord self = log_.record();
  std::vector<std::string> texts;
  for (auto& [rank, loss] : losses_) {
    if (const auto left = RecordLeftBy(loss.dated.record, self, true); left.has_value())
      loss.dated = *left;
    texts.push_back(LossText(loss.dated, loss.what));
  }
  if (texts.size() > kMostNamed) {
    const size_t more = texts.size() - kMostNamed;
    texts.resize(kMostNamed);
    texts.push_back(absl::StrCat(more, " more ranks likewise"));
  }
  if (texts.empty()) texts.push_back(stuck_);
  options_.tell(absl::StrCat(kJobEnds, absl::StrJoin(texts, "; ")));
  options_.tell(SurvivorText(self));

  const WatchMessage end = WatchMessage::Of(WatchMessageKind::kTheEnd, self, "", exit_code_);
  for (auto& [rank, member] : members_) member.link->Send(end);
  // The others tell of themselves, and end.
  const auto until = WatchClock::now() + kTimeToTellAll;
  for (bool is_one_there = true; is_one_there && WatchClock::now() < until;) {
    is_one_there = false;
    for (auto& [rank, member] : members_) {
      member.link->Exchange();
      is_one_there = is_one_there || !member.link->is_closed();
    }
    if (is_one_there) thread_.Await(Sockets());
  }
  options_.end_process(exit_code_);
}

}  // namespace salamander
