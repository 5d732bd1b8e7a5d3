// One call of a model on its generation cache: tokens of some sequences go through together, each
// behind those that its sequence has, and the head gives logits for chosen rows of them.
#ifndef TRAINER_GENERATE_CACHED_CALL_H_
#define TRAINER_GENERATE_CACHED_CALL_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "kernels/device.h"
#include "model/decode_cache.h"
#include "model/transformer.h"

namespace salamander {

// The model that generates, on the session's device.
struct Generator {
  DeviceSession& session;
  const ExecutionContext& execution;
  const Transformer& model;
};

struct CachedCall {
  std::vector<int32_t> tokens;
  std::vector<int64_t> slots;     // sequences of the cache, and
  std::vector<Segment> segments;  // the rows that each has in the call
};

// Adds tokens to the call as the next ones of a sequence. Fails where they do not fit the cache.
absl::Status AddTokens(const DecodeCache& cache, int64_t slot, absl::Span<const int32_t> tokens,
                       CachedCall& call);

// Final hidden states [T, C] of the call's tokens, in the arena.
absl::StatusOr<TensorView> HiddenStates(const Generator& generator, DecodeCache& cache,
                                        const CachedCall& call);

// The head's logits [S, V] of rows [S, C], in the arena.
absl::StatusOr<TensorView> LogitsOf(const Generator& generator, const TensorView& rows);

// Logits [S, V] behind one token of each sequence, in the arena: the same ops every time, in the
// same places of the arena, so that they can be replayed. The cache's sequences have grown.
absl::StatusOr<TensorView> Step(const Generator& generator, DecodeCache& cache,
                                const CachedCall& call, Replay& replay);

}  // namespace salamander

#endif  // TRAINER_GENERATE_CACHED_CALL_H_
