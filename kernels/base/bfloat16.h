// bf16 on the host: the upper half of an fp32. Widening is exact; narrowing rounds to nearest, ties
// to even, and keeps a NaN a NaN.
#ifndef KERNELS_BASE_BFLOAT16_H_
#define KERNELS_BASE_BFLOAT16_H_

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

}  // namespace salamander

#endif  // KERNELS_BASE_BFLOAT16_H_
