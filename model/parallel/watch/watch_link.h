// The connections that the watches of a job's ranks keep among themselves, beside MPI's: to know of
// a rank's death they must not depend on what the rank was doing. TCP over IPv4.
#ifndef MODEL_PARALLEL_WATCH_WATCH_LINK_H_
#define MODEL_PARALLEL_WATCH_WATCH_LINK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/parallel/watch/collective_log.h"

namespace salamander {

enum class WatchMessageKind : int32_t {
  kHello,       // a rank's first: its record, and the job's token as text
  kAlive,       // the sender's record
  kFailed,      // the sender ends by itself; text: why
  kGoodbye,     // the sender ends in order
  kWhatIsLeft,  // to a rank on the host of `record`'s rank: read the record's file
  kLeft,        // the answer: what was in it
  kTheEnd,      // the job ends; text: what happened
};

// Travels as it lies in memory, between processes of one program.
struct WatchMessage {
  WatchMessageKind kind = WatchMessageKind::kAlive;
  int32_t exit_code = 0;  // kFailed, kTheEnd
  int64_t now_ns = 0;     // the sender's clock, for the ages of what is in the record
  RankRecord record;
  int32_t text_length = 0;
  char text[1020] = {};

  // The record is as it is now; the text is cut to what fits.
  static WatchMessage Of(WatchMessageKind kind, const RankRecord& record,
                         absl::string_view text = "", int exit_code = 0);
  absl::string_view words() const;
};

// One end of a connection. Not blocking: what cannot be sent at once waits for the next Exchange.
class WatchLink {
 public:
  explicit WatchLink(int socket) : socket_(socket) {}
  ~WatchLink();
  WatchLink(const WatchLink&) = delete;
  WatchLink& operator=(const WatchLink&) = delete;

  int socket() const { return socket_; }
  bool is_closed() const { return is_closed_; }  // by the other end, or broken
  bool has_unsent() const { return !unsent_.empty(); }

  void Send(const WatchMessage& message);
  // No more will be sent; the other end sees it once it has read all.
  void CloseSending();
  // Sends what waits, and gives what has arrived; of very much, the rest the next time.
  std::vector<WatchMessage> Exchange();

 private:
  void Flush();

  int socket_;
  bool is_closed_ = false;
  bool closes_sending_ = false;
  std::string unsent_, unread_;
};

// Where the ranks' links come in: rank 0's.
class WatchDoor {
 public:
  static absl::StatusOr<std::unique_ptr<WatchDoor>> Open();
  ~WatchDoor();
  WatchDoor(const WatchDoor&) = delete;
  WatchDoor& operator=(const WatchDoor&) = delete;

  int socket() const { return socket_; }
  // The port and every address of this host, for WatchConnect.
  const std::string& addresses() const { return addresses_; }
  std::unique_ptr<WatchLink> Accept();  // nullptr: nobody is there

 private:
  WatchDoor(int socket, std::string addresses)
      : socket_(socket), addresses_(std::move(addresses)) {}
  int socket_;
  std::string addresses_;
};

// Tries the addresses in turn, for a few seconds each, until one answers `hello` with rank 0's
// hello of the same token.
struct WatchConnection {
  std::unique_ptr<WatchLink> link;
  WatchMessage answer;
};
absl::StatusOr<WatchConnection> WatchConnect(const std::string& addresses,
                                             const WatchMessage& hello);

// Waits until a socket has something to say or can take what it is to send, or the time is over.
struct WatchedSocket {
  int socket = -1;
  bool wants_to_send = false;
};
void AwaitSockets(const std::vector<WatchedSocket>& sockets, int milliseconds);

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_WATCH_LINK_H_
