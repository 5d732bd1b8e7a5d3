// Continues token sequences with a model: each prompt goes through once, in pieces of bounded
// length, then all sequences step together one token at a time on their keys, values and recurrent
// states.
#ifndef TRAINER_GENERATE_GENERATOR_H_
#define TRAINER_GENERATE_GENERATOR_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"

#include "model/decode_cache.h"
#include "trainer/generate/cached_call.h"
#include "trainer/generate/sampler.h"

namespace salamander {

struct GenerateOptions {
  int64_t max_new_tokens = 64;
  // Of a prompt in one call; bounds the memory of long prompts. The first call takes dense_len of a
  // prompt that reaches it where that decides for the whole document, and so for LongRoPE.
  int64_t prefill_tokens = 2048;
  SamplingOptions sampling;
  std::vector<int64_t> stop_ids;  // a sequence ends with the first of these, which is not returned
  // Called as each token of sequence 0 is chosen; or empty.
  std::function<void(int32_t token)> on_token;
};

struct Generated {
  std::vector<int32_t> tokens;
  bool stopped = false;  // by a stop id rather than by max_new_tokens
};

using Prompts = std::vector<std::vector<int32_t>>;

// Room for the prompts and what is added to each.
absl::StatusOr<DecodeCache> CacheFor(const Generator& generator, const Prompts& prompts,
                                     const GenerateOptions& options);

// Fails on an empty prompt and on a token outside the vocabulary. Requires: `cache` is a fresh one
// of CacheFor's with the same arguments.
absl::StatusOr<std::vector<Generated>> Generate(const Generator& generator, DecodeCache cache,
                                                const Prompts& prompts,
                                                const GenerateOptions& options);

}  // namespace salamander

#endif  // TRAINER_GENERATE_GENERATOR_H_
