// What the tests of the ops on rows share: outputs compared as a list, bounds by reduction length,
// and the promise that neither threads nor repetition change a bit.
#ifndef TESTS_KERNELS_ROW_OP_TEST_H_
#define TESTS_KERNELS_ROW_OP_TEST_H_

#include <cstdint>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {

using Outputs = std::vector<TestTensor>;

constexpr DType kBothTypes[] = {DType::kFloat32, DType::kFloat64};

// Relative root-mean-square error of results made from `length` addends: some roundings of their
// own and those of a sum in at least eight lanes.
inline double Bound(DType dtype, int64_t length) {
  const double unit = dtype == DType::kFloat32 ? 0x1p-24 : 0x1p-53;
  return unit * (8.0 + static_cast<double>(length) / 8.0);
}

inline void ExpectClose(const Outputs& actual, const Outputs& expected, double bound) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_LE(RelativeRmse(actual[i].View(), expected[i].View()), bound)
        << "output " << i << ", " << actual[i].View().ShapeString();
  }
}

inline void ExpectSameBits(const Outputs& actual, const Outputs& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(BitwiseEqual(actual[i].View(), expected[i].View())) << "output " << i;
  }
}

// `run` makes its outputs anew each time.
inline void ExpectSameBitsOnAnyThreads(const std::function<Outputs()>& run) {
  Outputs first;
  {
    const ScopedThreadCount one(1);
    first = run();
    ExpectSameBits(run(), first);
  }
  for (const int threads : {2, 3}) {
    const ScopedThreadCount several(threads);
    ExpectSameBits(run(), first);
  }
}

}  // namespace salamander

#endif  // TESTS_KERNELS_ROW_OP_TEST_H_
