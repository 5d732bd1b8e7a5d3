#include "kernels/cpu/vector_math.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace salamander::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(ExpTest, Float32IsWithinTwoRoundings) {
  for (float x = -87.33F; x < 88.72F; x += 0.0007F) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(Exp(x) / exact, 1.0, 0x1.2p-23) << "at " << x;
  }
}

TEST(ExpTest, Float64IsWithinTwoRoundings) {
  for (double x = -708.39; x < 709.78; x += 0.0071) {
    const long double exact = std::exp(static_cast<long double>(x));
    ASSERT_NEAR(static_cast<double>(Exp(x) / exact - 1.0L), 0.0, 0x1.2p-52) << "at " << x;
  }
}

TEST(ExpTest, EndsOfTheRange) {
  EXPECT_EQ(Exp(0.0F), 1.0F);
  EXPECT_EQ(Exp(-kInfinity), 0.0F);
  EXPECT_EQ(Exp(-1e30F), 0.0F);
  EXPECT_EQ(Exp(-87.34F), 0.0F);
  EXPECT_GE(Exp(-87.336F), std::numeric_limits<float>::min());
  EXPECT_LE(Exp(88.72283F), std::numeric_limits<float>::max());
  EXPECT_EQ(Exp(88.73F), kInfinity);
  EXPECT_EQ(Exp(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(Exp(kNan)));
  EXPECT_EQ(Exp(-double{kInfinity}), 0.0);
  EXPECT_EQ(Exp(-709.0), 0.0);
  EXPECT_LE(Exp(709.78), std::numeric_limits<double>::max());
  EXPECT_EQ(Exp(710.0), double{kInfinity});
  EXPECT_TRUE(std::isnan(Exp(double{kNan})));
}

TEST(SigmoidTest, SaturatesWithoutNan) {
  EXPECT_EQ(Sigmoid(0.0F), 0.5F);
  EXPECT_EQ(Sigmoid(1e30F), 1.0F);
  EXPECT_EQ(Sigmoid(-1e30F), 0.0F);
  EXPECT_EQ(Sigmoid(-kInfinity), 0.0F);
  EXPECT_TRUE(std::isnan(Sigmoid(kNan)));
  for (double x = -30; x < 30; x += 0.37) {
    EXPECT_NEAR(Sigmoid(x) + Sigmoid(-x), 1.0, 1e-15);
    EXPECT_NEAR(Sigmoid(static_cast<float>(x)), 1 / (1 + std::exp(-x)), 2e-7);
  }
}

TEST(SiluTest, IsItsArgumentTimesSigmoid) {
  EXPECT_EQ(Silu(1e30F), 1e30F);
  EXPECT_EQ(Silu(-1e30F), 0.0F);
  for (double x = -30; x < 30; x += 0.37) EXPECT_NEAR(Silu(x), x * Sigmoid(x), 1e-14);
}

}  // namespace
}  // namespace salamander::cpu
