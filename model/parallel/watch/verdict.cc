#include "model/parallel/watch/verdict.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace salamander {
namespace {

std::vector<size_t> Where(const std::vector<DatedRecord>& records, const auto& condition) {
  std::vector<size_t> found;
  for (size_t index = 0; index < records.size(); ++index) {
    if (condition(records[index].record)) found.push_back(index);
  }
  return found;
}

std::string NameOf(const CollectiveCall& call) {
  return absl::StrCat(call.operation, " in group ", call.group);
}

// What most ranks call the collective they are in.
std::string MostCommonName(const std::vector<DatedRecord>& records) {
  std::map<std::string, int> counts;
  for (const DatedRecord& dated : records) ++counts[NameOf(dated.record.oldest_open)];
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

}  // namespace

std::string SilentText(double seconds) {
  return absl::StrCat("was not heard of for ", seconds,
                      " seconds: its host is down or cut off, or its process was stopped");
}

std::string FailedText(absl::string_view what) {
  return absl::StrCat("failed: ", what);
}

std::string LeftText(absl::string_view what) {
  return absl::StrCat("has ended in order and ", what);
}

std::string LossText(const DatedRecord& lost, const std::string& what) {
  return absl::StrCat(
      RankText(lost.record), " ", what, "; its last collective",
      lost.is_final ? ": " : ", when last heard of: ", CollectiveText(lost.record, lost.now_ns));
}

std::string SurvivorText(const RankRecord& record) {
  return absl::StrCat(RankText(record), " ends with the job; its last collective: ",
                      CollectiveText(record, MonotonicNanoseconds()));
}

std::optional<DatedRecord> RecordLeftBy(const RankRecord& lost, const RankRecord& self,
                                        bool removes) {
  if (absl::string_view(lost.host) != self.host) return std::nullopt;
  const auto left = CollectiveLog::Read(lost.file);
  if (!left.ok() || left->rank != lost.rank || left->process != lost.process) return std::nullopt;
  if (removes) std::remove(lost.file);
  return DatedRecord{*left, MonotonicNanoseconds(), true};
}

Fault FindFault(const std::vector<DatedRecord>& records, size_t waiting) {
  const auto which_waits_in = [](const DatedRecord& dated) {
    return absl::StrCat("which rank ", dated.record.rank,
                        " waits in: ", CollectiveText(dated.record, dated.now_ns));
  };
  std::vector<size_t> found =
      Where(records, [](const RankRecord& record) { return record.oldest_open.number == 0; });
  if (!found.empty()) {
    return {std::move(found),
            absl::StrCat("did not come to a collective ", which_waits_in(records[waiting]))};
  }

  const auto [first, last] =
      std::minmax_element(records.begin(), records.end(), [](const auto& a, const auto& b) {
        return a.record.oldest_open.number < b.record.oldest_open.number;
      });
  const int64_t earliest = first->record.oldest_open.number;
  found = Where(records,
                [&](const RankRecord& record) { return record.oldest_open.number == earliest; });
  if (found.size() < records.size()) {
    return {std::move(found), absl::StrCat("does not leave an earlier collective than the one ",
                                           which_waits_in(*last))};
  }

  const std::string name = MostCommonName(records);
  found =
      Where(records, [&](const RankRecord& record) { return NameOf(record.oldest_open) != name; });
  if (!found.empty())
    return {std::move(found), absl::StrCat("is in another collective than the others, ", name)};
  return {{},
          absl::StrCat("all ranks are in the same collective and it does not end, ",
                       which_waits_in(records[waiting]),
                       "; look at the network between the hosts and at their devices")};
}

}  // namespace salamander
