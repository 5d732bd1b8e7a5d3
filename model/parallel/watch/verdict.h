// Who is at fault, from what is known of every rank's collectives, and the words for it.
#ifndef MODEL_PARALLEL_WATCH_VERDICT_H_
#define MODEL_PARALLEL_WATCH_VERDICT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "model/parallel/watch/collective_log.h"

namespace salamander {

// A record and what its host's clock showed when it was true.
struct DatedRecord {
  RankRecord record;
  int64_t now_ns = 0;
  bool is_final = false;  // what the rank told or left at its end, no older
  bool has_left = false;  // it ended in order
};

inline constexpr char kJobEnds[] = "the job ends: ";  // scripts/launch/mpirun looks for it
inline constexpr char kGone[] = "is gone: its process ended without a word";
std::string SilentText(double seconds);
std::string FailedText(absl::string_view what);
std::string LeftText(absl::string_view what);

// "rank 3 on host-b (process 21) <what>; its last collective: number 812, ...".
std::string LossText(const DatedRecord& lost, const std::string& what);

// What a rank that ends with the job says of itself.
std::string SurvivorText(const RankRecord& record);

// What is left of a rank on the host of `self`; nothing where it is another host's. Its file goes
// with it where `removes`.
std::optional<DatedRecord> RecordLeftBy(const RankRecord& lost, const RankRecord& self,
                                        bool removes);

struct Fault {
  std::vector<size_t> at_fault;  // of the records given; empty where nothing tells them apart
  std::string what;              // said of each of them, or of all ranks together
};

// Requires: records[waiting] is in a collective. A rank that is in none did not come; where all are
// in one, those in an earlier one keep the others; where all are in the same, one that calls it
// otherwise is in the wrong one. Earlier is what has the smaller number. Ranks count the same
// collectives alike from each end of their passes on (AgreeAfterPasses); inside passes those count
// less whose tokens need fewer collectives, so that there the earlier one may be a rank that waits.
Fault FindFault(const std::vector<DatedRecord>& records, size_t waiting);

}  // namespace salamander

#endif  // MODEL_PARALLEL_WATCH_VERDICT_H_
