// LightningForward and LightningBackward: which segments are stepped and which are swept, how the
// walks are cut (lightning_plan.h), and the products of the backward:
//            query  key  value   walks      start states
//   out      q      k    v       forwards   S
//   dq       do     v    k       forwards   S, transposed
//   dv       k      q    do      backwards  dS
//   dk       v      do   q       backwards  dS, transposed
// S and dS are stored [value dim, key dim] for v k^T and do q^T, so that dq and out, and dk and dv,
// share their run's start states.
#include <algorithm>
#include <vector>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/lightning/lightning_kernels.h"
#include "kernels/cuda/lightning/lightning_plan.h"
#include "kernels/cuda/lightning/lightning_support.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

float* StatesOrNull(const TensorView& states) {
  return states.empty() ? nullptr : states.data<float>();
}

// A walk whose tables are on their way to the device and whose scratch is taken.
struct PlacedWalk {
  explicit PlacedWalk(LightningWalk planned) : walk(std::move(planned)) {}

  void AddTo(LightningTables& tables, const TensorView& q, bool sums_pieces) {
    runs = tables.Add(walk.runs);
    contributing = tables.Add(walk.contributing);
    chains = tables.Add(walk.chains);
    if (!sums_pieces) return;
    written = tables.Add(std::vector<int32_t>(walk.scratch_states * q.dim(1), 0));
  }
  void TakeScratch(const TensorView& q, Arena& arena) {
    if (walk.scratch_states == 0) return;
    scratch = arena.Array<float>(walk.scratch_states * q.dim(1) * q.dim(2) * q.dim(2));
  }
  // Null where pieces are not summed.
  int32_t* Written(const LightningTables& tables) const {
    return written < 0 ? nullptr : tables.At<int32_t>(written);
  }
  int32_t run_count() const { return static_cast<int32_t>(walk.runs.size()); }
  int32_t contributing_count() const { return static_cast<int32_t>(walk.contributing.size()); }
  int32_t chain_count() const { return static_cast<int32_t>(walk.chains.size()); }

  LightningWalk walk;
  int64_t runs = 0, contributing = 0, chains = 0, written = -1;
  float* scratch = nullptr;
};

LightningShapeArgs ShapeArgs(const TensorView& q, const LightningTables& tables, int64_t heads) {
  return {.heads_by_slope = tables.At<LightningHead>(heads),
          .heads = static_cast<int32_t>(q.dim(1)),
          .dim = static_cast<int32_t>(q.dim(2))};
}

LightningStates States(const PlacedWalk& placed, const LightningTables& tables,
                       const TensorView& key, const TensorView& value, double key_scale,
                       bool reversed, const float* start_states) {
  return {.key = key.raw(),
          .value = value.raw(),
          .key_scale = static_cast<float>(key_scale),
          .reversed = reversed,
          .start_states = start_states,
          .scratch = placed.scratch,
          .contributing = tables.At<LightningRun>(placed.contributing),
          .chains = tables.At<LightningChain>(placed.chains),
          .written = placed.Written(tables)};
}

// What the sweep works on before its runs; nothing where a kernel of its own does.
std::vector<LightningPiece> PiecesToSum(bool sums_pieces, const std::vector<LightningHead>& heads,
                                        const PlacedWalk& placed, const LightningLengths& lengths) {
  if (!sums_pieces) return {};
  return RememberedPieces(heads, placed.walk, lengths);
}

// Segments of few queries: decoding, and documents shorter than a tensor core's tile.
bool IsStep(const Segment& segment) {
  return segment.query_count <= LightningStepArgs::kMaxQueries;
}

}  // namespace

absl::Status LightningForward(const ExecutionContext& context, const LightningForwardArgs& args) {
  RETURN_IF_ERROR(CheckLightningSupported("LightningForward", args.q,
                                          {args.q, args.k, args.v, args.out, args.states}));
  const ArenaScope scope(*context.arena);
  std::vector<Segment> swept, stepped;
  for (const Segment& segment : args.segments) {
    (IsStep(segment) ? stepped : swept).push_back(segment);
  }
  const bool by_warpgroups = HasLightningWarpgroups(context, static_cast<int32_t>(args.q.dim(2)));
  const LightningLengths lengths = ChooseLightningLengths(swept, args.q.dim(1), by_warpgroups);
  PlacedWalk sweep(PlanLightningWalk(swept, lengths, false, !args.states.empty()));
  const LightningWalk steps = PlanLightningWalk(stepped, lengths, false, !args.states.empty());
  LightningTables tables;
  const std::vector<LightningHead> described = DescribeLightningHeads(args.slopes, lengths.piece);
  const int64_t heads = tables.Add(described);
  const int64_t step_runs = tables.Add(steps.runs);
  const bool sums_pieces = by_warpgroups && CanSumPieces(sweep.walk);
  const std::vector<LightningPiece> pieces = PiecesToSum(sums_pieces, described, sweep, lengths);
  const int64_t placed_pieces = tables.Add(pieces);
  sweep.AddTo(tables, args.q, sums_pieces);
  RETURN_IF_ERROR(tables.Upload(context));
  sweep.TakeScratch(args.q, *context.arena);

  const LightningShapeArgs shape = ShapeArgs(args.q, tables, heads);
  float* const states = StatesOrNull(args.states);
  RETURN_IF_ERROR(
      LaunchLightningSteps(context, {.shape = shape,
                                     .q = args.q.raw(),
                                     .k = args.k.raw(),
                                     .v = args.v.raw(),
                                     .out = args.out.raw(),
                                     .scale = static_cast<float>(args.scale),
                                     .states = states,
                                     .steps = tables.At<LightningRun>(step_runs),
                                     .step_count = static_cast<int32_t>(steps.runs.size())}));
  const LightningStatesArgs states_args = {
      .shape = shape,
      .walks = {States(sweep, tables, args.k, args.v, 1.0, false, states)},
      .walk_count = 1,
      .contributing_count = sweep.contributing_count(),
      .chain_count = sweep.chain_count(),
      .pieces_of_run = lengths.PiecesOfRun(),
      .chunks_of_piece = lengths.ChunksOfPiece()};
  if (!sums_pieces) RETURN_IF_ERROR(LaunchLightningStates(context, states_args));
  return LaunchLightningSweep(context, {.shape = shape,
                                        .products = {{.query = args.q.raw(),
                                                      .key = args.k.raw(),
                                                      .value = args.v.raw(),
                                                      .out = args.out.raw(),
                                                      .query_scale = static_cast<float>(args.scale),
                                                      .key_scale = 1,
                                                      .reversed = false,
                                                      .transposed = false,
                                                      .start_states = states,
                                                      .end_states = states,
                                                      .scratch = sweep.scratch,
                                                      .written = sweep.Written(tables),
                                                      .runs = tables.At<LightningRun>(sweep.runs)}},
                                        .product_count = 1,
                                        .run_count = sweep.run_count(),
                                        .pieces = tables.At<LightningPiece>(placed_pieces),
                                        .piece_count = static_cast<int32_t>(pieces.size()),
                                        .states = states_args});
}

absl::Status LightningBackward(const ExecutionContext& context, const LightningBackwardArgs& args) {
  RETURN_IF_ERROR(CheckLightningSupported(
      "LightningBackward", args.q,
      {args.q, args.k, args.v, args.d_out, args.dq, args.dk, args.dv, args.states, args.d_states}));
  const ArenaScope scope(*context.arena);
  const bool by_warpgroups = HasLightningWarpgroups(context, static_cast<int32_t>(args.q.dim(2)));
  const LightningLengths lengths =
      ChooseLightningLengths(args.segments, args.q.dim(1), by_warpgroups);
  PlacedWalk forwards(PlanLightningWalk(args.segments, lengths, false, !args.states.empty()));
  PlacedWalk backwards(PlanLightningWalk(args.segments, lengths, true, !args.d_states.empty()));
  LightningTables tables;
  const std::vector<LightningHead> described = DescribeLightningHeads(args.slopes, lengths.piece);
  const int64_t heads = tables.Add(described);
  const bool sums_pieces =
      by_warpgroups && CanSumPieces(forwards.walk) && CanSumPieces(backwards.walk);
  const std::vector<LightningPiece> pieces = PiecesToSum(sums_pieces, described, forwards, lengths);
  const int64_t placed_pieces = tables.Add(pieces);
  for (PlacedWalk* walk : {&forwards, &backwards}) walk->AddTo(tables, args.q, sums_pieces);
  RETURN_IF_ERROR(tables.Upload(context));
  for (PlacedWalk* walk : {&forwards, &backwards}) walk->TakeScratch(args.q, *context.arena);

  const LightningShapeArgs shape = ShapeArgs(args.q, tables, heads);
  const float* const states = StatesOrNull(args.states);
  float* const d_states = StatesOrNull(args.d_states);
  const LightningStatesArgs states_args = {
      .shape = shape,
      .walks = {States(forwards, tables, args.k, args.v, 1.0, false, states),
                States(backwards, tables, args.q, args.d_out, args.scale, true, d_states)},
      .walk_count = 2,
      .contributing_count = forwards.contributing_count(),
      .chain_count = forwards.chain_count(),
      .pieces_of_run = lengths.PiecesOfRun(),
      .chunks_of_piece = lengths.ChunksOfPiece()};
  if (!sums_pieces) RETURN_IF_ERROR(LaunchLightningStates(context, states_args));
  const auto scale = static_cast<float>(args.scale);
  const LightningProduct dq = {.query = args.d_out.raw(),
                               .key = args.v.raw(),
                               .value = args.k.raw(),
                               .out = args.dq.raw(),
                               .query_scale = scale,
                               .key_scale = 1,
                               .reversed = false,
                               .transposed = true,
                               .start_states = states,
                               .end_states = nullptr,
                               .scratch = forwards.scratch,
                               .written = forwards.Written(tables),
                               .runs = tables.At<LightningRun>(forwards.runs)};
  const LightningProduct dv = {.query = args.k.raw(),
                               .key = args.q.raw(),
                               .value = args.d_out.raw(),
                               .out = args.dv.raw(),
                               .query_scale = 1,
                               .key_scale = scale,
                               .reversed = true,
                               .transposed = false,
                               .start_states = d_states,
                               .end_states = d_states,
                               .scratch = backwards.scratch,
                               .written = backwards.Written(tables),
                               .runs = tables.At<LightningRun>(backwards.runs)};
  const LightningProduct dk = {.query = args.v.raw(),
                               .key = args.d_out.raw(),
                               .value = args.q.raw(),
                               .out = args.dk.raw(),
                               .query_scale = 1,
                               .key_scale = scale,
                               .reversed = true,
                               .transposed = true,
                               .start_states = d_states,
                               .end_states = nullptr,
                               .scratch = backwards.scratch,
                               .written = backwards.Written(tables),
                               .runs = tables.At<LightningRun>(backwards.runs)};
  // dv and dk side by side: the second read of what they share comes from the L2 cache.
  return LaunchLightningSweep(context, {.shape = shape,
                                        .products = {dv, dk, dq},
                                        .product_count = 3,
                                        .run_count = forwards.run_count(),
                                        .pieces = tables.At<LightningPiece>(placed_pieces),
                                        .piece_count = static_cast<int32_t>(pieces.size()),
                                        .states = states_args});
}

}  // namespace salamander::cuda
