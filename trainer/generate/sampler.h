// Picks the next token from logits.
#ifndef TRAINER_GENERATE_SAMPLER_H_
#define TRAINER_GENERATE_SAMPLER_H_

#include <cstdint>

#include "absl/types/span.h"

namespace salamander {

struct SamplingOptions {
  double temperature = 0.0;  // 0 takes the largest logit, the lowest index of equals
  int64_t top_k = 0;         // only the k largest; 0: all
  double top_p = 1.0;        // only the most probable ones that together reach this share
  uint64_t seed = 0;
};

// A pure function of (logits, options, sequence, position): the same text whatever the batch.
int32_t SampleToken(absl::Span<const float> logits, const SamplingOptions& options,
                    int64_t sequence, int64_t position);

}  // namespace salamander

#endif  // TRAINER_GENERATE_SAMPLER_H_
