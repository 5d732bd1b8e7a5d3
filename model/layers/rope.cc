#include "model/layers/rope.h"

#include <cmath>
#include <numbers>

#include "kernels/base/status_macros.h"
#include "kernels/rope_tables.h"

namespace salamander {
namespace {

// Llama 3.1's rule: long wavelengths slow down by `factor`, short ones stay, the band between is
// blended.
double Llama3Frequency(const RopeConfig& rope, double frequency) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  if (wavelength < original / rope.high_frequency_factor) return frequency;
  if (wavelength > original / rope.low_frequency_factor) return frequency / rope.factor;
  const double blend = (original / wavelength - rope.low_frequency_factor) /
                       (rope.high_frequency_factor - rope.low_frequency_factor);
  return (1.0 - blend) * frequency / rope.factor + blend * frequency;
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int64_t head_dim,
                                           int64_t length) {
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t d = 0; d < frequencies.size(); ++d) {
    double frequency =
        std::pow(rope.theta, -2.0 * static_cast<double>(d) / static_cast<double>(head_dim));
    switch (rope.scaling) {
      case RopeScalingKind::kNone:
        break;
      case RopeScalingKind::kLinear:
        frequency /= rope.factor;
        break;
      case RopeScalingKind::kLlama3:
        frequency = Llama3Frequency(rope, frequency);
        break;
      case RopeScalingKind::kLongRope:
        frequency /=
            length > rope.original_max_positions ? rope.long_factor[d] : rope.short_factor[d];
        break;
    }
    frequencies[d] = frequency;
  }
  return frequencies;
}

double RopeAttentionFactor(const RopeConfig& rope, int64_t max_positions) {
  if (rope.scaling != RopeScalingKind::kLongRope) return 1.0;
  if (rope.attention_factor > 0) return rope.attention_factor;
  const auto original = static_cast<double>(rope.original_max_positions);
  const double stretch = static_cast<double>(max_positions) / original;
  return stretch <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(stretch) / std::log(original));
}

absl::StatusOr<RotaryTables> MakeRopeTables(const ExecutionContext& context,
                                            const ModelConfig& config, int64_t head_dim,
                                            DType activations, Segments segments, int64_t tokens) {
  const DType dtype = StatisticsType(activations);
  const RotaryTables tables{context.arena->Tensor(dtype, {tokens, head_dim / 2}),
                            context.arena->Tensor(dtype, {tokens, head_dim / 2})};
  const int64_t original = config.rope.original_max_positions;
  const auto short_frequencies = RopeInverseFrequencies(config.rope, head_dim, 0);
  const auto long_frequencies = RopeInverseFrequencies(config.rope, head_dim, original + 1);
  RETURN_IF_ERROR(
      RopeTables(context, {.short_frequencies = short_frequencies,
                           .long_frequencies = long_frequencies,
                           .short_length = original,
                           .factor = RopeAttentionFactor(config.rope, config.max_positions),
                           .segments = segments,
                           .cosines = tables.cosines,
                           .sines = tables.sines}));
  return tables;
}

}  // namespace salamander
