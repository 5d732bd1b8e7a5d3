#include "trainer/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/base/random.h"

namespace salamander {
namespace {

// Token indices from most to least probable, cut to the k largest.
std::vector<int32_t> Ranked(absl::Span<const float> logits, int64_t top_k) {
  std::vector<int32_t> tokens(logits.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  const size_t keep =
      top_k > 0 ? std::min(static_cast<size_t>(top_k), tokens.size()) : tokens.size();
  std::partial_sort(tokens.begin(), tokens.begin() + static_cast<int64_t>(keep), tokens.end(),
                    [&](int32_t a, int32_t b) {
                      const float left = logits[static_cast<size_t>(a)],
                                  right = logits[static_cast<size_t>(b)];
                      return left != right ? left > right : a < b;
                    });
  tokens.resize(keep);
  return tokens;
}

}  // namespace

int32_t SampleToken(absl::Span<const float> logits, const SamplingOptions& options,
                    int64_t sequence, int64_t position) {
  if (options.temperature <= 0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  const std::vector<int32_t> tokens = Ranked(logits, options.top_k);
  const double largest = logits[static_cast<size_t>(tokens.front())];
  std::vector<double> weights;
  double total = 0.0;
  for (const int32_t token : tokens) {
    weights.push_back(std::exp((static_cast<double>(logits[static_cast<size_t>(token)]) - largest) /
                               options.temperature));
    total += weights.back();
  }
  size_t kept = 0;
  double mass = 0.0;
  while (kept < tokens.size() && (kept == 0 || mass < options.top_p * total))
    mass += weights[kept++];

  const uint64_t key = HashCounter(HashCounter(options.seed, static_cast<uint64_t>(sequence)), 0);
  double remaining = UniformAt(key, static_cast<uint64_t>(position)) * mass;
  for (size_t index = 0; index < kept; ++index) {
    remaining -= weights[index];
    if (remaining < 0) return tokens[index];
  }
  return tokens[kept - 1];
}

}  // namespace salamander
