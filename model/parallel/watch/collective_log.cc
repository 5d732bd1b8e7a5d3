#include "model/parallel/watch/collective_log.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "kernels/base/logging.h"

namespace salamander {
namespace {

constexpr uint64_t kMagic = 0x53414c4c4f473031;  // "SALLOG01": changes with RankRecord
constexpr int kReadAttempts = 1000;              // a writer is in the page for nanoseconds

template <size_t kLength>
void CopyText(absl::string_view text, char (&to)[kLength]) {
  const size_t length = std::min(text.size(), kLength - 1);
  std::memcpy(to, text.data(), length);
  std::memset(to + length, 0, kLength - length);
}

std::string Seconds(int64_t nanoseconds) {
  return absl::StrFormat("%.3g s", static_cast<double>(nanoseconds) * 1e-9);
}

// Whether the file has its bytes: a store into a page that the disk has no room for is a SIGBUS.
bool Allocate(int descriptor, size_t bytes) {
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
  return error == 0;
}

}  // namespace

// The record is slots[version % 2]; the other one is where the next is written, so that a rank that
// is killed as it writes leaves a whole record.
struct CollectiveLog::Page {
  uint64_t magic = 0;
  std::atomic<uint64_t> version = 0;
  RankRecord slots[2];
};

std::string RecordFolder() {
  constexpr char kInMemory[] = "/dev/shm";
  std::error_code error;
  if (std::filesystem::is_directory(kInMemory, error) && access(kInMemory, W_OK | X_OK) == 0)
    return kInMemory;
  const auto folder = std::filesystem::temp_directory_path(error);
  return error ? "/tmp" : folder.string();
}

int64_t MonotonicNanoseconds() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::string CollectiveText(const RankRecord& record, int64_t now_ns) {
  const bool is_open = record.oldest_open.number > 0;
  const CollectiveCall& call = is_open ? record.oldest_open : record.last;
  if (call.number == 0) return "none yet";
  return absl::StrCat(
      "number ", call.number, ", ", call.operation, " of ", call.bytes, " bytes in group ",
      call.group, ", ",
      is_open ? absl::StrCat("begun ", Seconds(now_ns - call.begun_ns), " ago and not ended")
              : absl::StrCat("ended ", Seconds(now_ns - record.last_ended_ns), " ago"));
}

std::string RankText(const RankRecord& record) {
  return absl::StrCat("rank ", record.rank, " on ", record.host, " (process ", record.process, ")");
}

CollectiveLog::CollectiveLog(absl::string_view folder, absl::string_view job, int rank) {
  next_.rank = rank;
  next_.process = getpid();
  char host[sizeof(next_.host)] = {};
  gethostname(host, sizeof(host) - 1);
  CopyText(host, next_.host);
  const std::string file = absl::StrCat(folder, "/salamander-", job, "-rank-", rank);
  if (Map(file)) CopyText(file, next_.file);
  Publish();
  if (page_ != nullptr) page_->magic = kMagic;
}

bool CollectiveLog::Map(const std::string& file) {
  if (file.size() >= sizeof(next_.file)) return false;
  const int descriptor = open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return false;
  void* mapped = MAP_FAILED;
  if (Allocate(descriptor, sizeof(Page)))
    mapped = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (mapped == MAP_FAILED) {
    unlink(file.c_str());
    return false;
  }
  page_ = new (mapped) Page;
  return true;
}

CollectiveLog::~CollectiveLog() {
  if (page_ == nullptr) return;
  munmap(page_, sizeof(Page));
  RemoveFile();
}

void CollectiveLog::RemoveFile() const {
  if (page_ != nullptr) unlink(record().file);
}

int64_t CollectiveLog::Begin(absl::string_view group, absl::string_view operation, int64_t bytes) {
  const std::lock_guard<std::mutex> lock(changes_);
  CollectiveCall& call = next_.last;
  ++call.number;
  call.bytes = bytes;
  call.begun_ns = MonotonicNanoseconds();
  CopyText(group, call.group);
  CopyText(operation, call.operation);
  next_.last_ended_ns = 0;
  open_.push_back(call);
  Publish();
  return call.number;
}

void CollectiveLog::End(int64_t number) {
  const std::lock_guard<std::mutex> lock(changes_);
  const auto ended = std::find_if(open_.begin(), open_.end(), [&](const CollectiveCall& call) {
    return call.number == number;
  });
  SALAMANDER_CHECK(ended != open_.end()) << "collective " << number << " is not under way";
  open_.erase(ended);
  if (number == next_.last.number) next_.last_ended_ns = MonotonicNanoseconds();
  Publish();
}

void CollectiveLog::AdvanceTo(int64_t number) {
  const std::lock_guard<std::mutex> lock(changes_);
  next_.last.number = std::max(next_.last.number, number);
  Publish();
}

void CollectiveLog::Publish() {
  next_.oldest_open = open_.empty() ? CollectiveCall{} : open_.front();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    record_ = next_;
  }
  if (page_ == nullptr) return;
  const uint64_t version = page_->version.load(std::memory_order_relaxed) + 1;
  page_->slots[version % 2] = next_;
  page_->version.store(version, std::memory_order_release);
}

RankRecord CollectiveLog::record() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return record_;
}

absl::StatusOr<RankRecord> CollectiveLog::Read(const std::string& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", file));
  Page page;
  bool is_whole = false, is_settled = false;
  for (int attempt = 0; attempt < kReadAttempts && !is_settled; ++attempt) {
    uint64_t later = 0;
    is_whole = pread(descriptor, static_cast<void*>(&page), sizeof(Page), 0) == sizeof(Page) &&
               page.magic == kMagic &&
               pread(descriptor, &later, sizeof(later), offsetof(Page, version)) == sizeof(later);
    if (!is_whole) break;
    is_settled = later == page.version;
  }
  close(descriptor);
  if (is_settled) return page.slots[page.version % 2];
  return is_whole ? absl::UnavailableError(absl::StrCat(file, ": written to without a pause"))
                  : absl::DataLossError(absl::StrCat(file, ": found no record of a rank"));
}

}  // namespace salamander
