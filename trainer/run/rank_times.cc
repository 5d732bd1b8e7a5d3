#include "trainer/run/rank_times.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "trainer/report/table.h"

namespace salamander {
namespace {

constexpr size_t kMostTold = 4;
constexpr double kSlow = 1.2;  // times the median

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

void RankTimes::Add(double own_seconds) {
  sum_ += own_seconds;
  ++steps_;
}

// A rank's text: the bytes of a double, then its host's name.
absl::StatusOr<std::vector<RankTime>> RankTimes::Gather(Communicator& world) {
  const double mean = steps_ > 0 ? sum_ / static_cast<double>(steps_) : 0.0;
  sum_ = 0.0;
  steps_ = 0;
  std::string text(sizeof(mean), '\0');
  std::memcpy(text.data(), &mean, sizeof(mean));
  ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                   world.AllGather(absl::StrCat(text, HostName())));
  std::vector<RankTime> times;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    RankTime time{.rank = static_cast<int>(rank), .host = texts[rank].substr(sizeof(mean))};
    std::memcpy(&time.seconds, texts[rank].data(), sizeof(mean));
    times.push_back(std::move(time));
  }
  std::stable_sort(times.begin(), times.end(),
                   [](const RankTime& a, const RankTime& b) { return a.seconds > b.seconds; });
  return times;
}

std::string RankTimes::Complaint(const std::vector<RankTime>& slowest_first) {
  const RankTime& slowest = slowest_first.front();
  const double median = MedianSeconds(slowest_first);
  const bool is_slow = slowest.seconds > kSlow * median;
  const bool is_told = is_slow && slowest.rank == suspect_;
  suspect_ = is_slow ? slowest.rank : -1;
  if (!is_told) return "";
  return absl::StrCat("rank ", slowest.rank, " on ", slowest.host,
                      " is slow: its own part of a step takes ", Short(slowest.seconds),
                      " s, that of the median rank ", Short(median),
                      " s, and the others wait for it");
}

double MedianSeconds(const std::vector<RankTime>& sorted) {
  const size_t half = sorted.size() / 2;
  if (sorted.size() % 2 == 1) return sorted[half].seconds;
  return (sorted[half - 1].seconds + sorted[half].seconds) / 2;
}

Metrics RankMetrics(const std::vector<RankTime>& slowest_first) {
  Metrics metrics = {{"median_rank_seconds", MedianSeconds(slowest_first)}};
  for (size_t place = 0; place < std::min(kMostTold, slowest_first.size()); ++place) {
    const RankTime& time = slowest_first[place];
    const std::string key = absl::StrCat("slowest_", place + 1);
    metrics.emplace_back(absl::StrCat(key, "_rank"), int64_t{time.rank});
    metrics.emplace_back(absl::StrCat(key, "_host"), time.host);
    metrics.emplace_back(absl::StrCat(key, "_seconds"), time.seconds);
  }
  return metrics;
}

}  // namespace salamander
