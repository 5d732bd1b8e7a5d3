#include "kernels/cuda/lightning/lightning_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

// Every run but the first of a segment costs a start state written, scanned and read: 256 tokens
// keep that below the tokens' own bytes.
constexpr int64_t kShortestRun = 256;

// Two blocks on each of 128 multiprocessors, or a few more. One segment is cut into equal runs that
// all finish together; several leave shorter ones, and a finer cut fills the holes.
constexpr int64_t kBlocksOfOneSegment = 256;
constexpr int64_t kBlocksOfSeveral = 512;

}  // namespace

int64_t LightningRunLength(Segments segments, int64_t heads) {
  int64_t tokens = 0;
  for (const Segment& segment : segments) tokens += segment.query_count;
  const int64_t blocks = segments.size() == 1 ? kBlocksOfOneSegment : kBlocksOfSeveral;
  const int64_t length = (tokens * heads + blocks - 1) / blocks;
  const int64_t chunks = (length + kLightningChunk - 1) / kLightningChunk;
  return std::max(kShortestRun, chunks * kLightningChunk);
}

LightningWalk PlanLightningWalk(Segments segments, int64_t run_length, bool reversed,
                                bool has_start_states) {
  LightningWalk walk;
  for (const Segment& segment : segments) {
    const int64_t runs = (segment.query_count + run_length - 1) / run_length;
    const bool is_split = runs > 1;
    const int32_t start_slot = reversed ? segment.state_out : segment.state_in;
    const int32_t first_slot = has_start_states ? start_slot : -1;
    const int32_t last_slot = reversed ? segment.state_in : segment.state_out;
    for (int64_t i = 0; i < runs; ++i) {
      const int64_t begin = i * run_length;
      LightningRun run = {
          .first_row = reversed ? segment.query_begin + segment.query_count - 1 - begin
                                : segment.query_begin + begin,
          .count = std::min(run_length, segment.query_count - begin),
          .start_slot = i == 0 ? first_slot : -1,
          .end_slot = i == runs - 1 ? last_slot : -1,
          .start_scratch = is_split ? static_cast<int32_t>(walk.scratch_states + i) : -1,
          .end_scratch = i < runs - 1 ? static_cast<int32_t>(walk.scratch_states + i + 1) : -1};
      if (i < runs - 1) walk.contributing.push_back(run);
      if (i == 0 && first_slot < 0) run.start_scratch = -1;
      walk.runs.push_back(run);
    }
    if (runs > 2) walk.chains.push_back({walk.scratch_states, static_cast<int32_t>(runs)});
    if (is_split) walk.scratch_states += static_cast<int32_t>(runs);
  }
  std::stable_sort(walk.runs.begin(), walk.runs.end(),
                   [](const LightningRun& a, const LightningRun& b) { return a.count > b.count; });
  return walk;
}

std::vector<LightningHead> DescribeLightningHeads(absl::Span<const double> slopes,
                                                  int64_t run_length) {
  const double kMemory = 32 * std::log(2.0);
  std::vector<LightningHead> heads;
  for (size_t i = 0; i < slopes.size(); ++i) {
    const double slope = slopes[i];
    SALAMANDER_CHECK(slope >= 0) << "slope " << slope << " of head " << i;
    const double tokens = kMemory / slope;
    constexpr auto kAll = std::numeric_limits<int32_t>::max();
    heads.push_back(
        {.slope = slope,
         .run_decay = static_cast<float>(std::exp(-slope * run_length)),
         .step_decay = static_cast<float>(std::exp(-slope)),
         .index = static_cast<int32_t>(i),
         .memory_chunks =
             tokens < kAll ? static_cast<int32_t>(std::ceil(tokens / kLightningChunk)) : kAll});
  }
  std::stable_sort(heads.begin(), heads.end(), [](const LightningHead& a, const LightningHead& b) {
    return a.slope < b.slope;
  });
  return heads;
}

int64_t LightningTables::AddBytes(const void* bytes, int64_t count) {
  const auto place = static_cast<int64_t>(host_.size());
  host_.resize(place + (count + kAlignment - 1) / kAlignment * kAlignment);
  if (count > 0) std::memcpy(host_.data() + place, bytes, count);
  return place;
}

absl::Status LightningTables::Upload(const ExecutionContext& context) {
  ASSIGN_OR_RETURN(device_, UploadArray(context, absl::MakeConstSpan(host_)));
  return absl::OkStatus();
}

}  // namespace salamander::cuda
