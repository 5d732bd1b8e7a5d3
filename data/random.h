// Random numbers that are the same on every machine: value i of a key is a pure function of
// (key, i), so that a sequence or a sample can be made from its number alone, in any order.
// The generator is SplitMix64 (Steele, Lea, Flood 2014). Nothing here uses <random>, whose
// distributions differ between standard libraries.
#ifndef DATA_RANDOM_H_
#define DATA_RANDOM_H_

#include <cstdint>
#include <initializer_list>

#include "kernels/base/random.h"

namespace salamander {

// The key of one purpose: DeriveKey({seed, kShuffle, epoch}). Order matters.
inline uint64_t DeriveKey(std::initializer_list<uint64_t> parts) {
  uint64_t key = 0x9e3779b97f4a7c15u;
  for (const uint64_t part : parts) key = MixBits((key ^ part) + 0x9e3779b97f4a7c15u);
  return key;
}

class CounterRandom {
 public:
  explicit CounterRandom(uint64_t key) : key_(key) {}

  uint64_t Next() { return MixBits(key_ + 0x9e3779b97f4a7c15u * ++counter_); }

  // Uniform over [0, bound), without bias (Lemire 2019). Requires: bound >= 1.
  uint64_t Below(uint64_t bound) {
    const uint64_t first_fair = (0 - bound) % bound;
    while (true) {
      const auto product = static_cast<unsigned __int128>(Next()) * bound;
      if (static_cast<uint64_t>(product) >= first_fair) return static_cast<uint64_t>(product >> 64);
    }
  }

  // Uniform over [0, 1), in steps of 2^-53.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

// A keyed pseudo-random permutation of [0, size): a balanced Feistel network over the next even
// power of two, walked until it lands inside the range. It takes no memory, however large the
// range, and position i is known without the ones before it.
class Permutation {
 public:
  // Requires: 1 <= size < 2^62.
  Permutation(uint64_t key, int64_t size) : key_(key), size_(static_cast<uint64_t>(size)) {
    while ((uint64_t{1} << (2 * half_bits_)) < size_) ++half_bits_;
  }

  int64_t operator()(int64_t position) const {
    uint64_t value = static_cast<uint64_t>(position);
    do value = Network(value);
    while (value >= size_);
    return static_cast<int64_t>(value);
  }

 private:
  uint64_t Network(uint64_t value) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (uint64_t round = 1; round <= 6; ++round) {
      const uint64_t next = left ^ (MixBits(MixBits(key_ + round) ^ right) & mask);
      left = right;
      right = next;
    }
    return left << half_bits_ | right;
  }

  uint64_t key_;
  uint64_t size_;
  int half_bits_ = 1;
};

}  // namespace salamander

#endif  // DATA_RANDOM_H_
