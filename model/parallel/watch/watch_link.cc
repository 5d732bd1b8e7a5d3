#include "model/parallel/watch/watch_link.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

using Clock = std::chrono::steady_clock;

// For a connection and for the answer to a hello, each.
constexpr std::chrono::seconds kPatience{5};

// A peer that reads nothing is not sent more than this.
constexpr size_t kMostUnsent = 64 * sizeof(WatchMessage);

// One that never stops sending is left for the others' turn after this.
constexpr size_t kMostRead = 64 * sizeof(WatchMessage);

bool IsTransient(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

// Loopback last: it is for ranks of the same host where there is no network.
std::vector<std::string> OwnAddresses() {
  std::vector<std::string> addresses, loopback;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return addresses;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    if ((entry->ifa_flags & IFF_UP) == 0) continue;
    std::array<char, INET_ADDRSTRLEN> text = {};
    const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size());
    ((entry->ifa_flags & IFF_LOOPBACK) != 0 ? loopback : addresses).emplace_back(text.data());
  }
  freeifaddrs(list);
  addresses.insert(addresses.end(), loopback.begin(), loopback.end());
  return addresses;
}

absl::StatusOr<std::unique_ptr<WatchLink>> ConnectTo(const std::string& host, uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, host.c_str(), &address.sin_addr);
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, "socket");
  auto link = std::make_unique<WatchLink>(descriptor);
  int error = connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0
                  ? 0
                  : errno;
  if (error == EINPROGRESS) {
    pollfd wait = {.fd = descriptor, .events = POLLOUT, .revents = 0};
    const int ready = poll(&wait, 1, std::chrono::milliseconds(kPatience).count());
    socklen_t length = sizeof(error);
    if (ready <= 0 || getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
      error = ETIMEDOUT;
  }
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("connect to ", host, ":", port));
  return link;
}

// Not every program that listens is rank 0 of this job; one may send back whatever it is sent.
std::optional<WatchMessage> AnswerTo(const WatchMessage& hello, WatchLink& link) {
  link.Send(hello);
  for (const auto end = Clock::now() + kPatience; Clock::now() < end && !link.is_closed();) {
    for (const WatchMessage& message : link.Exchange()) {
      if (message.kind == WatchMessageKind::kHello && message.words() == hello.words() &&
          message.record.rank == 0)
        return message;
    }
    AwaitSockets({{link.socket(), link.has_unsent()}}, 100);
  }
  return std::nullopt;
}

}  // namespace

WatchMessage WatchMessage::Of(WatchMessageKind kind, const RankRecord& record,
                              absl::string_view text, int exit_code) {
  WatchMessage message{
      .kind = kind, .exit_code = exit_code, .now_ns = MonotonicNanoseconds(), .record = record};
  message.text_length = static_cast<int32_t>(std::min(text.size(), sizeof(message.text)));
  std::memcpy(message.text, text.data(), static_cast<size_t>(message.text_length));
  return message;
}

absl::string_view WatchMessage::words() const {
  return {text, std::min(static_cast<size_t>(text_length), sizeof(text))};
}

WatchLink::~WatchLink() {
  close(socket_);
}

void WatchLink::Send(const WatchMessage& message) {
  if (is_closed_ || closes_sending_ || unsent_.size() >= kMostUnsent) return;
  unsent_.append(reinterpret_cast<const char*>(&message), sizeof(message));
  Flush();
}

void WatchLink::CloseSending() {
  closes_sending_ = true;
  Flush();
}

void WatchLink::Flush() {
  while (!unsent_.empty() && !is_closed_) {
    const ssize_t sent = send(socket_, unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
    if (sent < 0 && IsTransient(errno)) return;
    if (sent < 0) {
      // What the other end sent before is still to be read; reading tells that it is gone.
      unsent_.clear();
      return;
    }
    unsent_.erase(0, static_cast<size_t>(sent));
  }
  if (closes_sending_) shutdown(socket_, SHUT_WR);
}

std::vector<WatchMessage> WatchLink::Exchange() {
  Flush();
  std::array<char, 16384> buffer = {};
  while (!is_closed_ && unread_.size() < kMostRead) {
    const ssize_t got = recv(socket_, buffer.data(), buffer.size(), 0);
    if (got < 0 && IsTransient(errno)) break;
    if (got <= 0) is_closed_ = true;
    if (got > 0) unread_.append(buffer.data(), static_cast<size_t>(got));
  }
  std::vector<WatchMessage> messages(unread_.size() / sizeof(WatchMessage));
  const size_t whole = messages.size() * sizeof(WatchMessage);
  if (whole > 0) std::memcpy(messages.data(), unread_.data(), whole);
  unread_.erase(0, whole);
  return messages;
}

absl::StatusOr<std::unique_ptr<WatchDoor>> WatchDoor::Open() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, "socket");
  std::unique_ptr<WatchDoor> door(new WatchDoor(descriptor, ""));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t length = sizeof(address);
  if (bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(descriptor, SOMAXCONN) != 0 ||
      getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &length) != 0)
    return absl::ErrnoToStatus(errno, "listen");
  door->addresses_ = absl::StrCat(ntohs(address.sin_port), " ", absl::StrJoin(OwnAddresses(), " "));
  return door;
}

WatchDoor::~WatchDoor() {
  close(socket_);
}

std::unique_ptr<WatchLink> WatchDoor::Accept() {
  const int descriptor = accept4(socket_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  return descriptor < 0 ? nullptr : std::make_unique<WatchLink>(descriptor);
}

absl::StatusOr<WatchConnection> WatchConnect(const std::string& addresses,
                                             const WatchMessage& hello) {
  const std::vector<std::string> parts = absl::StrSplit(addresses, ' ', absl::SkipEmpty());
  int port = 0;
  if (parts.size() < 2 || !absl::SimpleAtoi(parts[0], &port))
    return absl::NotFoundError("rank 0's host has no IPv4 address");
  std::vector<std::string> complaints;
  for (size_t index = 1; index < parts.size(); ++index) {
    auto link = ConnectTo(parts[index], static_cast<uint16_t>(port));
    if (link.ok()) {
      auto answer = AnswerTo(hello, **link);
      if (answer.has_value()) return WatchConnection{*std::move(link), *answer};
    }
    complaints.push_back(link.ok() ? absl::StrCat(parts[index], ":", port, " is not rank 0's")
                                   : std::string(link.status().message()));
  }
  return absl::UnavailableError(absl::StrJoin(complaints, "; "));
}

void AwaitSockets(const std::vector<WatchedSocket>& sockets, int milliseconds) {
  std::vector<pollfd> waits;
  for (const auto& [socket, wants_to_send] : sockets) {
    const auto events = static_cast<int16_t>(wants_to_send ? POLLIN | POLLOUT : POLLIN);
    waits.push_back({.fd = socket, .events = events, .revents = 0});
  }
  poll(waits.data(), waits.size(), milliseconds);
}

}  // namespace salamander
