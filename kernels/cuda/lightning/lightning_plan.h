// How a Lightning call is cut into parts that run in parallel, and what its kernels are told.
//
// A product (the table in kernels/cpu/lightning_attention.cc) walks every segment from one end to
// the other. The walk is cut into runs of a length that depends on the shapes alone, a multiple of
// the chunk; the last run of a segment may be shorter. A run needs the state at its start, so a
// segment of several runs takes three kernels:
//   states   each run but the last, in equal pieces: what a piece contributes to the state at its
//            end, from zero  (fp32, in scratch)
//   scan     state after piece i = l^length * state before it + contribution i  (in order, per
//            head); those after the last piece of a run are kept
//   sweep    each run from its start state, 64 tokens at a time
// A segment of one run takes the sweep alone. Runs are few and long, since every one of them costs
// the states of the pieces before it; pieces are shorter, since only those are worked on that their
// head still remembers at the end of their run. On warpgroups the sweep works on the pieces too and
// a run sums those before it, so that there is one kernel, unless they are many (CanSumPieces).
#ifndef KERNELS_CUDA_LIGHTNING_LIGHTNING_PLAN_H_
#define KERNELS_CUDA_LIGHTNING_LIGHTNING_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"

namespace salamander::cuda {

inline constexpr int kLightningChunk = 64;

// What the kernels know of a head.
struct LightningHead {
  double slope;
  float piece_decay;  // exp(-slope * piece length)
  float step_decay;   // exp(-slope)
  int32_t index;      // heads are listed by ascending slope: those with the longest memory first
  int32_t memory_chunks;  // what lies further back weighs less than 2^-32
};

// A run, or a piece of one. States are rows of the caller's tensor (slot) or of scratch; -1 stands
// for none.
struct LightningRun {
  int64_t first_row;  // the first on the walk: of a reversed one, the last in the stream
  int64_t count;
  int32_t start_slot;
  int32_t end_slot;
  int32_t start_scratch;
  int32_t end_scratch;
  int32_t pieces_before;  // in its segment; the last of them ends in start_scratch
};

// How long runs and the pieces of all but the last of a segment are, in tokens.
struct LightningLengths {
  int64_t run;
  int64_t piece;  // a run is some of them

  int32_t PiecesOfRun() const { return static_cast<int32_t>(run / piece); }
  int32_t ChunksOfPiece() const { return static_cast<int32_t>(piece / kLightningChunk); }
};

// The pieces of one segment: piece i starts from scratch row first_scratch + i.
struct LightningChain {
  int32_t first_scratch;
  int32_t pieces;
};

struct LightningWalk {
  // All runs, longest first. A start comes from start_scratch, else from start_slot, else is zero.
  std::vector<LightningRun> runs;
  // The pieces of those that contribute to a later one, in order, for the states kernel: it copies
  // the state of start_slot to start_scratch, since the last run may overwrite that slot, and
  // writes end_scratch.
  std::vector<LightningRun> contributing;
  std::vector<LightningChain> chains;  // of at least two pieces: single ones need no scan
  int32_t scratch_states = 0;          // rows of scratch
};

// The lengths for this much work, for the kernels of warpgroups or those of warps.
LightningLengths ChooseLightningLengths(Segments segments, int64_t heads, bool by_warpgroups);

// `segments` are those to walk; `reversed` walks start from state_out and end in state_in. Without
// `has_start_states` they start from zero.
LightningWalk PlanLightningWalk(Segments segments, const LightningLengths& lengths, bool reversed,
                                bool has_start_states);

// Whether runs could sum the pieces before them by themselves: those are few, and no segment of
// several runs starts from a slot.
bool CanSumPieces(const LightningWalk& walk);

std::vector<LightningHead> DescribeLightningHeads(absl::Span<const double> slopes,
                                                  int64_t piece_length);

// A piece of LightningWalk::contributing for a head of DescribeLightningHeads.
struct LightningPiece {
  int32_t head;
  int32_t index;
};

// What there is to remember at the ends of runs, longest first.
std::vector<LightningPiece> RememberedPieces(const std::vector<LightningHead>& heads,
                                             const LightningWalk& walk,
                                             const LightningLengths& lengths);

// Several arrays that reach the device by one copy.
class LightningTables {
 public:
  // Returns the array's place for `At`.
  template <typename Value>
  int64_t Add(const std::vector<Value>& values) {
    static_assert(alignof(Value) <= kAlignment);
    return AddBytes(values.data(), static_cast<int64_t>(values.size() * sizeof(Value)));
  }

  absl::Status Upload(const ExecutionContext& context);

  // Requires: Upload.
  template <typename Value>
  Value* At(int64_t place) const {
    return reinterpret_cast<Value*>(device_ + place);
  }

 private:
  static constexpr int64_t kAlignment = 16;
  int64_t AddBytes(const void* bytes, int64_t count);

  std::vector<char> host_;
  char* device_ = nullptr;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_PLAN_H_
