#include "model/layers/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

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

template <typename Element>
void FillRows(const std::vector<double>& frequencies, double factor, const Segment& segment,
              const RopeTables& tables) {
  const auto half = static_cast<int64_t>(frequencies.size());
#pragma omp parallel for schedule(static) if (segment.query_count * half > 4096)
  for (int64_t row = 0; row < segment.query_count; ++row) {
    Element* const cosines = tables.cosines.data<Element>() + (segment.query_begin + row) * half;
    Element* const sines = tables.sines.data<Element>() + (segment.query_begin + row) * half;
    const auto position = static_cast<double>(segment.first_position + row);
    for (int64_t d = 0; d < half; ++d) {
      const double angle = position * frequencies[static_cast<size_t>(d)];
      cosines[d] = static_cast<Element>(factor * std::cos(angle));
      sines[d] = static_cast<Element>(factor * std::sin(angle));
    }
  }
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

RopeTables MakeRopeTables(const ExecutionContext& context, const ModelConfig& config,
                          int64_t head_dim, DType dtype, Segments segments, int64_t tokens) {
  const RopeTables tables{context.arena->Tensor(dtype, {tokens, head_dim / 2}),
                          context.arena->Tensor(dtype, {tokens, head_dim / 2})};
  const double factor = RopeAttentionFactor(config.rope, config.max_positions);
  const auto short_frequencies = RopeInverseFrequencies(config.rope, head_dim, 0);
  const auto long_frequencies =
      RopeInverseFrequencies(config.rope, head_dim, config.rope.original_max_positions + 1);
  for (const Segment& segment : segments) {
    const auto& frequencies = segment.key_count() > config.rope.original_max_positions
                                  ? long_frequencies
                                  : short_frequencies;
    if (dtype == DType::kFloat64) {
      FillRows<double>(frequencies, factor, segment, tables);
    } else {
      FillRows<float>(frequencies, factor, segment, tables);
    }
  }
  return tables;
}

}  // namespace salamander
