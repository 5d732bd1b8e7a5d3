// IEEE binary16 as stored bits, widened to fp32, which is exact.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_HALF_FLOAT_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_HALF_FLOAT_H_

#include <bit>
#include <cstdint>

namespace salamander {

// 1 sign, 5 exponent (bias 15), 10 fraction bits.
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

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_HALF_FLOAT_H_
