// LightningEndState by the states kernel and its scan (lightning_plan.h): the rows are one run
// whose pieces end where the walk ends, so that only the first, which nothing decays into, may be
// shorter than the others. Its last chunk is then shorter than 64 rows, and heads remember one
// chunk more.
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

// A piece costs a state written and read, which 512 tokens keep below the tokens' own bytes; beyond
// this many blocks there are enough for every multiprocessor, though most heads forget early.
constexpr int64_t kShortestPiece = 512;
constexpr int64_t kBlocks = 1024;

int64_t PieceLength(int64_t rows, int64_t heads) {
  const int64_t pieces =
      std::clamp<int64_t>(rows / kShortestPiece, 1, std::max<int64_t>(kBlocks / heads, 1));
  const int64_t unit = pieces * kLightningChunk;
  return (rows + unit - 1) / unit * kLightningChunk;
}

// Piece i contributes to the state in row i + 1 of scratch.
std::vector<LightningRun> Pieces(int64_t rows, int64_t piece, bool reversed) {
  const auto count = static_cast<int32_t>((rows + piece - 1) / piece);
  std::vector<LightningRun> pieces;
  int64_t begin = 0;
  for (int32_t i = 0; i < count; ++i) {
    const int64_t end = rows - (count - 1 - i) * piece;
    pieces.push_back({.first_row = reversed ? rows - 1 - begin : begin,
                      .count = end - begin,
                      .start_slot = -1,
                      .end_slot = -1,
                      .start_scratch = i,
                      .end_scratch = i + 1,
                      .pieces_before = i});
    begin = end;
  }
  return pieces;
}

}  // namespace

absl::Status LightningEndState(const ExecutionContext& context, const LightningEndStateArgs& args) {
  RETURN_IF_ERROR(
      CheckLightningSupported("LightningEndState", args.key, {args.key, args.value, args.state}));
  const ArenaScope scope(*context.arena);
  const int64_t rows = args.key.dim(0), heads = args.key.dim(1);
  const int64_t piece = PieceLength(rows, heads);
  const std::vector<LightningRun> pieces = Pieces(rows, piece, args.reversed);
  const auto count = static_cast<int32_t>(pieces.size());
  std::vector<LightningChain> chains;
  if (count > 1) chains.push_back({.first_scratch = 0, .pieces = count});
  std::vector<LightningHead> described = DescribeLightningHeads(args.slopes, piece);
  for (LightningHead& head : described)
    if (head.memory_chunks < rows) ++head.memory_chunks;
  LightningTables tables;
  const int64_t placed_heads = tables.Add(described);
  const int64_t placed_pieces = tables.Add(pieces);
  const int64_t placed_chains = tables.Add(chains);
  RETURN_IF_ERROR(tables.Upload(context));
  float* const scratch = context.arena->Array<float>((count + 1) * args.state.size());
  LightningStatesArgs states = {.shape = {.heads_by_slope = tables.At<LightningHead>(placed_heads),
                                          .heads = static_cast<int32_t>(heads),
                                          .dim = static_cast<int32_t>(args.key.dim(2))},
                                .walks = {},
                                .walk_count = 1,
                                .contributing_count = count,
                                .chain_count = static_cast<int32_t>(chains.size()),
                                .pieces_of_run = count,
                                .chunks_of_piece = static_cast<int32_t>(piece / kLightningChunk)};
  states.walks[0] = {.key = args.key.raw(),
                     .value = args.value.raw(),
                     .key_scale = static_cast<float>(args.scale),
                     .reversed = args.reversed,
                     .start_states = nullptr,
                     .scratch = scratch,
                     .contributing = tables.At<LightningRun>(placed_pieces),
                     .chains = tables.At<LightningChain>(placed_chains),
                     .written = nullptr};
  RETURN_IF_ERROR(LaunchLightningStates(context, states));
  return context.cuda->Copy(scratch + count * args.state.size(), args.state.raw(),
                            args.state.bytes());
}

}  // namespace salamander::cuda
