// How a Lightning call is cut into pieces that run in parallel, and what its kernels are told.
//
// A product (the table in kernels/cpu/lightning_attention.cc) walks every segment from one end to
// the other. The walk is cut into runs of a length that depends on the shapes alone, a multiple of
// the chunk; the last run of a segment may be shorter. A run needs the state at its start, so a
// segment of several runs takes three kernels:
//   states   each run but the last: its contribution to the state, from zero  (fp32, in scratch)
//   scan     start of run i + 1 = l^length * start of run i + contribution i  (in order, per head)
//   sweep    each run from its start state, 64 tokens at a time
// A segment of one run takes the sweep alone.
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
  float run_decay;   // exp(-slope * run length)
  float step_decay;  // exp(-slope)
  int32_t index;     // heads are listed by ascending slope: those with the longest memory first
  int32_t memory_chunks;  // what lies further back weighs less than 2^-32
};

// States are rows of the caller's tensor (slot) or of scratch; -1 stands for none.
struct LightningRun {
  int64_t first_row;  // the first on the walk: of a reversed one, the last in the stream
  int64_t count;
  int32_t start_slot;
  int32_t end_slot;
  int32_t start_scratch;
  int32_t end_scratch;
};

// The runs of one segment: run i starts from scratch row first_scratch + i.
struct LightningChain {
  int32_t first_scratch;
  int32_t runs;
};

struct LightningWalk {
  // All runs, longest first. A start comes from start_scratch, else from start_slot, else is zero.
  std::vector<LightningRun> runs;
  // Those that contribute to a later one, for the states kernel: it copies the state of start_slot
  // to start_scratch, since the last run may overwrite that slot, and writes end_scratch.
  std::vector<LightningRun> contributing;
  std::vector<LightningChain> chains;  // of at least three runs: shorter ones need no scan
  int32_t scratch_states = 0;          // rows of scratch
};

// The length of a run for this much work.
int64_t LightningRunLength(Segments segments, int64_t heads);

// `segments` are those to walk; `reversed` walks start from state_out and end in state_in. Without
// `has_start_states` they start from zero.
LightningWalk PlanLightningWalk(Segments segments, int64_t run_length, bool reversed,
                                bool has_start_states);

std::vector<LightningHead> DescribeLightningHeads(absl::Span<const double> slopes,
                                                  int64_t run_length);

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
  const Value* At(int64_t place) const {
    return reinterpret_cast<const Value*>(device_ + place);
  }

 private:
  static constexpr int64_t kAlignment = 16;
  int64_t AddBytes(const void* bytes, int64_t count);

  std::vector<char> host_;
  const char* device_ = nullptr;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_PLAN_H_
