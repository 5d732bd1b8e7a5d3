// The kernels behind LightningForward and LightningBackward, by their launchers. Tensors are bf16
// [T, H, D] with D a multiple of 16 from 16 to 128 and 16-byte aligned; states are fp32
// [., H, D (v), D (k)]. Each enqueues on the context's stream and returns without waiting; an empty
// list launches nothing.
#ifndef KERNELS_CUDA_LIGHTNING_LIGHTNING_KERNELS_H_
#define KERNELS_CUDA_LIGHTNING_LIGHTNING_KERNELS_H_

#include <cstdint>

#include "absl/status/status.h"

#include "kernels/base/execution_context.h"
#include "kernels/cuda/lightning/lightning_plan.h"

namespace salamander::cuda {

// Shared by the kernels of one call. Pointers are to device memory.
struct LightningShapeArgs {
  const LightningHead* heads_by_slope;  // [heads]
  int32_t heads;
  int32_t dim;
};

// One chunked product, l = exp(-slope), e the query offset (kernels/cpu/lightning_chunk.h):
//   out_i = query_scale l^(i+e) query_i S
//           + query_scale key_scale sum_{j <= i} l^(i-j) (query_i . key_j) value_j
// with e = 1 forwards and 0 reversed, and S the state, key_scale sum_j l^(i-j) key_j^T value_j.
struct LightningProduct {
  const void* query;
  const void* key;
  const void* value;
  void* out;
  float query_scale;
  float key_scale;
  bool reversed;
  bool transposed;            // stored states have the key dim first: [., H, D (key), D (value)]
  const float* start_states;  // not read where no run has a start slot
  float* end_states;          // null: end states are dropped
  const float* scratch;       // start states of runs [scratch states, H, D, D]
  const int32_t* written;     // as LightningStates; null: scratch holds start states
  const LightningRun* runs;   // [run_count]
};

// The states at the starts of one walk's runs; stored states are [value dim, key dim].
struct LightningStates {
  const void* key;
  const void* value;
  float key_scale;
  bool reversed;
  const float* start_states;
  float* scratch;
  const LightningRun* contributing;
  const LightningChain* chains;
  int32_t* written;  // [scratch states, H] from zero: how many warpgroups' parts of it are there
};

struct LightningStatesArgs {
  static constexpr int kMaxWalks = 2;
  LightningShapeArgs shape;
  LightningStates walks[kMaxWalks];
  int32_t walk_count;
  int32_t contributing_count;  // the same for every walk
  int32_t chain_count;         // likewise
  int32_t pieces_of_run;
  int32_t chunks_of_piece;
};
absl::Status LaunchLightningStates(const ExecutionContext& context,
                                   const LightningStatesArgs& args);

// On warpgroups a sweep can do without the states kernel and the scan: it then works on the pieces
// first, and each run sums those before it as soon as they are written.
struct LightningSweepArgs {
  static constexpr int kMaxProducts = 3;
  LightningShapeArgs shape;
  LightningProduct products[kMaxProducts];
  int32_t product_count;
  int32_t run_count;             // the same for every product
  const LightningPiece* pieces;  // [piece_count], the same for every walk of `states`
  int32_t piece_count;           // 0: start states are in scratch already
  LightningStatesArgs states;    // whose pieces they are
};
absl::Status LaunchLightningSweep(const ExecutionContext& context, const LightningSweepArgs& args);

// What these launch on Hopper for head dim 128.
bool HasLightningWarpgroups(const ExecutionContext& context, int32_t dim);
absl::Status LaunchLightningWarpgroupSweep(const ExecutionContext& context,
                                           const LightningSweepArgs& args);

// Few queries, by the recurrence itself in fp32: every state is read and written once.
struct LightningStepArgs {
  static constexpr int kMaxQueries = 8;
  LightningShapeArgs shape;
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float scale;
  float* states;              // not used where no run has a slot
  const LightningRun* steps;  // count up to kMaxQueries; scratch is not used
  int32_t step_count;
};
absl::Status LaunchLightningSteps(const ExecutionContext& context, const LightningStepArgs& args);

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LIGHTNING_LIGHTNING_KERNELS_H_
