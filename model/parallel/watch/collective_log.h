// What a rank keeps of its collectives where its own death does not reach it: a file of a page in
// a folder of its host, mapped into memory. Ranks of the same host read it after a kill -9; a rank
// that ends in order removes it.
#ifndef MODEL_PARALLEL_WATCH_COLLECTIVE_LOG_H_
#define MODEL_PARALLEL_WATCH_COLLECTIVE_LOG_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace salamander {

// Plain bytes: records lie in files and travel between hosts.
struct CollectiveCall {
  int64_t number = 0;  // from 1, over all groups of the rank; 0: none
  int64_t bytes = 0;
  int64_t begun_ns = 0;  // by the host's MonotonicNanoseconds
  char group[24] = {};
  char operation[32] = {};
};

struct RankRecord {
  int32_t rank = -1;
  int32_t process = 0;
  char host[64] = {};
  char file[160] = {};         // the record's own, on its host; empty: none could be made
  CollectiveCall last;         // the one begun last
  int64_t last_ended_ns = 0;   // 0: it has not ended
  CollectiveCall oldest_open;  // of those that have not ended
};

// Where records lie by default: in memory where the host has a folder for that (/dev/shm), so that
// no disk is waited for; else in its temporary folder.
std::string RecordFolder();

// Since the host started, the same for all its processes.
int64_t MonotonicNanoseconds();

// "number 812, all-reduce (sum) of 4000 bytes in group data, begun 3.2 s ago and not ended".
std::string CollectiveText(const RankRecord& record, int64_t now_ns);

// "rank 3 on host-b (process 21)".
std::string RankText(const RankRecord& record);

class CollectiveLog {
 public:
  // The file is `folder`/salamander-`job`-rank-`rank`. Where it cannot be made, the record lives in
  // the process alone and record().file is empty. The job's name tells jobs apart, and everyone on
  // the host can read it.
  CollectiveLog(absl::string_view folder, absl::string_view job, int rank);
  ~CollectiveLog();
  CollectiveLog(const CollectiveLog&) = delete;
  CollectiveLog& operator=(const CollectiveLog&) = delete;

  // Around each collective, from any thread; one inside another counts for itself. Texts are cut to
  // the record's lengths. Gives the collective's number: the same on all ranks as far as all have
  // made the same calls since they last counted on from one number (AdvanceTo).
  int64_t Begin(absl::string_view group, absl::string_view operation, int64_t bytes);
  void End(int64_t number);

  // Counts on from `number` where this rank has counted less. Requires: nothing is under way that
  // was begun last.
  void AdvanceTo(int64_t number);

  RankRecord record() const;

  // For a process that ends without destroying the log.
  void RemoveFile() const;

  // Of another rank of this host, alive or dead. Fails where there is no such file, or it is not
  // one of this layout.
  static absl::StatusOr<RankRecord> Read(const std::string& file);

 private:
  struct Page;

  bool Map(const std::string& file);
  void Publish();  // what next_ is now, with changes_ held

  // A store into the page may wait for a disk, but who asks for the record waits for none: for a
  // copy alone, under a mutex of its own.
  std::mutex changes_;  // held through a change, to the end of the store
  std::deque<CollectiveCall> open_;
  RankRecord next_;
  Page* page_ = nullptr;  // mapped; nullptr: no file
  mutable std::mutex mutex_;
  RankRecord record_;  // next_, at the last change
};

// A collective from here to the end of the block. `log` may be nullptr: nothing is kept.
class LoggedCollective {
 public:
  LoggedCollective(CollectiveLog* log, absl::string_view group, absl::string_view operation,
                   int64_t bytes)
      : log_(log), number_(log == nullptr ? 0 : log->Begin(group, operation, bytes)) {}
  ~LoggedCollective() {
    if (log_ != nullptr) log_->End(number_);
  }
  LoggedCollective(const LoggedCollective&) = delete;
  LoggedCollective& operator=(const LoggedCollective&) = delete;

 private:
  CollectiveLog* log_;
  int64_t number_;
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_COLLECTIVE_LOG_H_
