#include "data/random.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

TEST(RandomTest, ValuesAreTheSameOnEveryMachine) {
  // SplitMix64 from state 1234567: the published reference values.
  CounterRandom random(1234567);
  EXPECT_EQ(random.Next(), 6457827717110365317u);
  EXPECT_EQ(random.Next(), 3203168211198807973u);
  EXPECT_EQ(random.Next(), 9817491932198370423u);
}

TEST(RandomTest, BelowCoversItsRangeEvenly) {
  CounterRandom random(3);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[random.Below(7)];
  // Six standard deviations of a binomial with n = 70000 and p = 1/7.
  for (const int count : counts) EXPECT_NEAR(count, 10000, 556);
}

TEST(RandomTest, PermutationIsABijection) {
  for (const int64_t size : {1, 2, 3, 4, 5, 17, 64, 1000, 4097}) {
    const Permutation permutation(DeriveKey({7, static_cast<uint64_t>(size)}), size);
    std::vector<bool> is_taken(size);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t image = permutation(i);
      ASSERT_GE(image, 0);
      ASSERT_LT(image, size);
      ASSERT_FALSE(is_taken[image]) << "size " << size;
      is_taken[image] = true;
    }
  }
}

TEST(RandomTest, PermutationsOfDifferentKeysDiffer) {
  const Permutation first(1, 1000);
  const Permutation second(2, 1000);
  int equal = 0;
  int fixed = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    equal += first(i) == second(i);
    fixed += first(i) == i;
  }
  // Both counts are Poisson with mean 1 for random permutations.
  EXPECT_LT(equal, 10);
  EXPECT_LT(fixed, 10);
}

}  // namespace
}  // namespace salamander
