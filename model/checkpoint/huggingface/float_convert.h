// Rows of stored half-width floats to and from fp32 and fp64. Widening is exact; narrowing rounds
// to nearest even and keeps a NaN a NaN.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_FLOAT_CONVERT_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_FLOAT_CONVERT_H_

#include <bit>
#include <cstdint>

namespace salamander {

inline float FloatOfBfloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t Bfloat16OfFloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// IEEE binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits.
inline float FloatOfHalf(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1FU;
  const uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in fp32
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1FU ? 0xFFU : exponent + 127 - 15;
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_FLOAT_CONVERT_H_
