#include "trainer/generate/cached_call.h"

#include "kernels/base/status_macros.h"
#include "kernels/head_loss.h"
#include "kernels/memory.h"

namespace salamander {

absl::Status AddTokens(const DecodeCache& cache, int64_t slot, absl::Span<const int32_t> tokens,
                       CachedCall& call) {
  const auto begin = static_cast<int64_t>(call.tokens.size());
  ASSIGN_OR_RETURN(const Segment segment,
                   cache.NextSegment(slot, begin, static_cast<int64_t>(tokens.size())));
  call.tokens.insert(call.tokens.end(), tokens.begin(), tokens.end());
  call.slots.push_back(slot);
  call.segments.push_back(segment);
  return absl::OkStatus();
}

absl::StatusOr<TensorView> HiddenStates(const Generator& generator, DecodeCache& cache,
                                        const CachedCall& call) {
  const ExecutionContext& execution = generator.execution;
  ASSIGN_OR_RETURN(const TensorView tokens, FromHost<int32_t>(execution, call.tokens));
  return generator.model.Forward({.execution = &execution,
                                  .tokens = tokens,
                                  .segments = call.segments,
                                  .cache = &cache,
                                  .use_candidate = {},
                                  .tap = {}},
                                 nullptr);
}

absl::StatusOr<TensorView> LogitsOf(const Generator& generator, const TensorView& rows) {
  const auto& [session, execution, model] = generator;
  const TensorView logits = execution.arena->Tensor(StatisticsType(rows.dtype()),
                                                    {rows.dim(0), model.config().vocabulary});
  RETURN_IF_ERROR(HeadLogits(execution, {.hidden = rows,
                                         .head = model.weights().head,
                                         .logit_scale = model.config().logit_scale,
                                         .logits = logits}));
  return logits;
}

absl::StatusOr<TensorView> Step(const Generator& generator, DecodeCache& cache,
                                const CachedCall& call, Replay& replay) {
  Arena& arena = *generator.execution.arena;
  const int64_t mark = arena.used_bytes();
  TensorView logits;
  RETURN_IF_ERROR(replay.Run([&]() -> absl::Status {
    arena.RewindTo(mark);
    ASSIGN_OR_RETURN(const TensorView hidden, HiddenStates(generator, cache, call));
    ASSIGN_OR_RETURN(logits, LogitsOf(generator, hidden));
    return absl::OkStatus();
  }));
  for (const int64_t slot : call.slots) cache.Advance(slot, 1);
  return logits;
}

}  // namespace salamander
