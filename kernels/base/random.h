// Counter-based random numbers: a pure function of a key and an index, the same on every machine
// and in every order.
#ifndef KERNELS_BASE_RANDOM_H_
#define KERNELS_BASE_RANDOM_H_

#include <cmath>
#include <cstdint>
#include <numbers>

#include "absl/strings/string_view.h"

namespace salamander {

// SplitMix64's finaliser (Steele, Lea, Flood 2014): every output bit depends on every input bit.
constexpr uint64_t MixBits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint64_t HashCounter(uint64_t key, uint64_t index) {
  return MixBits(MixBits(key + 0x9e3779b97f4a7c15ULL) ^ (index + 1) * 0x9e3779b97f4a7c15ULL);
}

// FNV-1a, to turn a name into a key.
constexpr uint64_t HashName(absl::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return hash;
}

// In [0, 1), 53 bits.
constexpr double UniformAt(uint64_t key, uint64_t index) {
  return static_cast<double>(HashCounter(key, index) >> 11) * 0x1.0p-53;
}

// Standard normal by Box-Muller.
inline double NormalAt(uint64_t key, uint64_t index) {
  const double radius = std::sqrt(-2.0 * std::log1p(-UniformAt(key, 2 * index)));
  return radius * std::cos(2.0 * std::numbers::pi * UniformAt(key, 2 * index + 1));
}

}  // namespace salamander

#endif  // KERNELS_BASE_RANDOM_H_
