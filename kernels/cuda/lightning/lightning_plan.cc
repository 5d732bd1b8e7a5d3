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

// Pieces shorten the wait for start states, and each costs a state written and read. Warpgroups are
// through with a chunk in a fifth of the time that warps take.
constexpr int64_t kShortestPieceOfWarps = 512;
constexpr int64_t kShortestPieceOfWarpgroups = 2048;
constexpr int64_t kMostPieces = 8;

// How many blocks one product's sweep is cut into: of warps two to a multiprocessor (of 128, or a
// few more), of warpgroups one.
constexpr int64_t kBlocksOfWarps = 256;
constexpr int64_t kBlocksOfWarpgroups = 128;

// Runs sum up to so many pieces rather than wait for a scan.
constexpr int32_t kMostSummedPieces = 32;

int64_t CeilDivide(int64_t count, int64_t divisor) {
  return (count + divisor - 1) / divisor;
}

}  // namespace

LightningLengths ChooseLightningLengths(Segments segments, int64_t heads, bool by_warpgroups) {
  int64_t tokens = 0;
  for (const Segment& segment : segments) tokens += segment.query_count;
  // One segment is cut into equal runs that all finish together; several leave shorter ones, and a
  // finer cut fills the holes.
  const int64_t blocks = by_warpgroups ? kBlocksOfWarpgroups : kBlocksOfWarps;
  const int64_t runs = segments.size() == 1 ? blocks : 2 * blocks;
  const int64_t shortest = by_warpgroups ? kShortestPieceOfWarpgroups : kShortestPieceOfWarps;
  const int64_t pieces =
      std::clamp<int64_t>(CeilDivide(tokens * heads, runs) / shortest, 1, kMostPieces);
  const int64_t unit = pieces * kLightningChunk;
  const int64_t run = std::max(kShortestRun, CeilDivide(tokens * heads, runs * unit) * unit);
  return {.run = run, .piece = run / pieces};
}

LightningWalk PlanLightningWalk(Segments segments, const LightningLengths& lengths, bool reversed,
                                bool has_start_states) {
  const int32_t pieces = lengths.PiecesOfRun();
  LightningWalk walk;
  for (const Segment& segment : segments) {
    const int64_t runs = CeilDivide(segment.query_count, lengths.run);
    const auto contributing = static_cast<int32_t>((runs - 1) * pieces);
    const bool is_split = runs > 1;
    const int32_t start_slot = reversed ? segment.state_out : segment.state_in;
    const int32_t first_slot = has_start_states ? start_slot : -1;
    const int32_t last_slot = reversed ? segment.state_in : segment.state_out;
    const auto row = [&](int64_t begin) {
      return reversed ? segment.query_begin + segment.query_count - 1 - begin
                      : segment.query_begin + begin;
    };
    for (int64_t i = 0; i < runs; ++i) {
      const int64_t begin = i * lengths.run;
      const bool has_scratch = is_split && (i > 0 || first_slot >= 0);
      walk.runs.push_back(
          {.first_row = row(begin),
           .count = std::min(lengths.run, segment.query_count - begin),
           .start_slot = i == 0 ? first_slot : -1,
           .end_slot = i == runs - 1 ? last_slot : -1,
           .start_scratch =
               has_scratch ? static_cast<int32_t>(walk.scratch_states + i * pieces) : -1,
           .end_scratch = -1,
           .pieces_before = static_cast<int32_t>(i * pieces)});
    }
    for (int32_t i = 0; i < contributing; ++i) {
      walk.contributing.push_back({.first_row = row(i * lengths.piece),
                                   .count = lengths.piece,
                                   .start_slot = i == 0 ? first_slot : -1,
                                   .end_slot = -1,
                                   .start_scratch = walk.scratch_states + i,
                                   .end_scratch = walk.scratch_states + i + 1,
                                   .pieces_before = i});
    }
    if (contributing > 1) walk.chains.push_back({walk.scratch_states, contributing});
    if (is_split) walk.scratch_states += contributing + 1;
  }
  std::stable_sort(walk.runs.begin(), walk.runs.end(),
                   [](const LightningRun& a, const LightningRun& b) { return a.count > b.count; });
  return walk;
}

bool CanSumPieces(const LightningWalk& walk) {
  return std::all_of(
             walk.chains.begin(), walk.chains.end(),
             [](const LightningChain& chain) { return chain.pieces <= kMostSummedPieces; }) &&
         std::all_of(walk.contributing.begin(), walk.contributing.end(),
                     [](const LightningRun& piece) { return piece.start_slot < 0; });
}

std::vector<LightningPiece> RememberedPieces(const std::vector<LightningHead>& heads,
                                             const LightningWalk& walk,
                                             const LightningLengths& lengths) {
  struct Remembered {
    LightningPiece piece;
    int32_t chunks;
  };
  std::vector<Remembered> remembered;
  const auto pieces = static_cast<int32_t>(walk.contributing.size());
  for (int32_t head = 0; head < static_cast<int32_t>(heads.size()); ++head) {
    for (int32_t i = 0; i < pieces; ++i) {
      const int32_t behind = lengths.PiecesOfRun() - 1 - i % lengths.PiecesOfRun();
      const int32_t chunks = heads[head].memory_chunks - behind * lengths.ChunksOfPiece();
      if (chunks > 0) remembered.push_back({{head, i}, std::min(chunks, lengths.ChunksOfPiece())});
    }
  }
  std::stable_sort(remembered.begin(), remembered.end(),
                   [](const Remembered& a, const Remembered& b) { return a.chunks > b.chunks; });
  std::vector<LightningPiece> result;
  for (const Remembered& entry : remembered) result.push_back(entry.piece);
  return result;
}

std::vector<LightningHead> DescribeLightningHeads(absl::Span<const double> slopes,
                                                  int64_t piece_length) {
  const double kMemory = 32 * std::log(2.0);
  std::vector<LightningHead> heads;
  for (size_t i = 0; i < slopes.size(); ++i) {
    const double slope = slopes[i];
    SALAMANDER_CHECK(slope >= 0 && std::isfinite(slope)) << "slope " << slope << " of head " << i;
    const double tokens = kMemory / slope;
    constexpr auto kAll = std::numeric_limits<int32_t>::max();
    heads.push_back(
        {.slope = slope,
         .piece_decay = static_cast<float>(std::exp(-slope * piece_length)),
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
  device_ = context.arena->Array<char>(std::max<int64_t>(1, static_cast<int64_t>(host_.size())));
  return context.cuda->Upload(host_.data(), device_, static_cast<int64_t>(host_.size()));
}

}  // namespace salamander::cuda
