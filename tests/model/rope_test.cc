#include "model/layers/rope.h"

#include <cmath>
#include <numbers>

#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

constexpr int64_t kHeadDim = 128;

std::vector<double> Plain(double theta) {
  std::vector<double> frequencies;
  for (int64_t d = 0; d < kHeadDim / 2; ++d)
    frequencies.push_back(std::exp(-std::log(theta) * static_cast<double>(d) / 64.0));
  return frequencies;
}

RopeConfig Rope(double theta, RopeScalingKind scaling = RopeScalingKind::kNone,
                double factor = 1.0) {
  RopeConfig rope;
  rope.theta = theta;
  rope.scaling = scaling;
  rope.factor = factor;
  return rope;
}

TEST(RopeFrequenciesTest, UnscaledFallGeometrically) {
  const auto frequencies = RopeInverseFrequencies(Rope(500000.0), kHeadDim, 10);
  const auto plain = Plain(500000.0);
  ASSERT_EQ(frequencies.size(), 64U);
  for (size_t d = 0; d < 64; ++d) EXPECT_NEAR(frequencies[d] / plain[d], 1.0, 1e-12) << d;
}

TEST(RopeFrequenciesTest, LinearDividesEveryOne) {
  const auto frequencies =
      RopeInverseFrequencies(Rope(10000.0, RopeScalingKind::kLinear, 4.0), kHeadDim, 10);
  const auto plain = Plain(10000.0);
  for (size_t d = 0; d < 64; ++d) EXPECT_NEAR(frequencies[d] / plain[d], 0.25, 1e-12) << d;
}

// Llama 3.1's own numbers: factor 8, 1 and 4 over 8192 positions.
TEST(RopeFrequenciesTest, Llama3KeepsShortWavelengthsSlowsLongOnesAndBlendsBetween) {
  RopeConfig rope = Rope(500000.0, RopeScalingKind::kLlama3, 8.0);
  rope.low_frequency_factor = 1.0;
  rope.high_frequency_factor = 4.0;
  rope.original_max_positions = 8192;
  const auto frequencies = RopeInverseFrequencies(rope, kHeadDim, 10);
  const auto plain = Plain(500000.0);
  int kept = 0, blended = 0, slowed = 0;
  for (size_t d = 0; d < 64; ++d) {
    // Turns over the original length: 4 and more are kept, 1 and fewer are slowed.
    const double turns = 8192.0 * plain[d] / (2.0 * std::numbers::pi);
    const double ratio = frequencies[d] / plain[d];
    if (turns > 4.0) {
      EXPECT_NEAR(ratio, 1.0, 1e-12) << d;
      ++kept;
    } else if (turns < 1.0) {
      EXPECT_NEAR(ratio, 0.125, 1e-12) << d;
      ++slowed;
    } else {
      const double share = (turns - 1.0) / 3.0;
      EXPECT_NEAR(ratio, share + (1.0 - share) / 8.0, 1e-9) << d;
      ++blended;
    }
  }
  EXPECT_GT(kept, 20);
  EXPECT_GT(blended, 3);
  EXPECT_GT(slowed, 20);
}

RopeConfig LongRope() {
  RopeConfig rope = Rope(10000.0, RopeScalingKind::kLongRope);
  rope.original_max_positions = 32;
  for (int d = 0; d < 4; ++d) {
    rope.short_factor.push_back(1.0 + 0.1 * d);
    rope.long_factor.push_back(2.0 + d);
  }
  return rope;
}

TEST(RopeFrequenciesTest, LongRopeChoosesItsFactorsByLength) {
  const RopeConfig rope = LongRope();
  const auto at_the_limit = RopeInverseFrequencies(rope, 8, 32);
  const auto past_it = RopeInverseFrequencies(rope, 8, 33);
  for (size_t d = 0; d < 4; ++d) {
    const double plain = std::pow(10000.0, -static_cast<double>(d) / 4.0);
    EXPECT_NEAR(at_the_limit[d], plain / (1.0 + 0.1 * static_cast<double>(d)), 1e-15);
    EXPECT_NEAR(past_it[d], plain / (2.0 + static_cast<double>(d)), 1e-15);
  }
}

TEST(RopeAttentionFactorTest, IsLongRopesFormulaUnlessGivenAndOneElsewhere) {
  RopeConfig rope = LongRope();
  EXPECT_EQ(RopeAttentionFactor(rope, 32), 1.0);
  EXPECT_EQ(RopeAttentionFactor(rope, 16), 1.0);
  EXPECT_NEAR(RopeAttentionFactor(rope, 128), std::sqrt(1.0 + std::log(4.0) / std::log(32.0)),
              1e-12);
  rope.attention_factor = 1.5;
  EXPECT_EQ(RopeAttentionFactor(rope, 128), 1.5);
  rope.scaling = RopeScalingKind::kLinear;
  EXPECT_EQ(RopeAttentionFactor(rope, 128), 1.0);
}

class RopeTablesTest : public testing::Test {
 protected:
  RotaryTables Tables(const RopeConfig& rope, int64_t max_positions, Segments segments,
                      int64_t tokens) {
    ModelConfig config = TinyDenseConfig(1);
    config.rope = rope;
    config.max_positions = max_positions;
    const auto tables = MakeRopeTables(context_, config, 8, DType::kFloat64, segments, tokens);
    SALAMANDER_CHECK(tables.ok()) << tables.status().ToString();
    return *tables;
  }
  // Row `row` holds factor * cos and sin of position * frequencies.
  void ExpectRow(const RotaryTables& tables, int64_t row, int64_t position,
                 const std::vector<double>& frequencies, double factor = 1.0) {
    for (int64_t d = 0; d < 4; ++d) {
      const double angle = static_cast<double>(position) * frequencies[static_cast<size_t>(d)];
      EXPECT_NEAR(ElementAt(tables.cosines, row * 4 + d), factor * std::cos(angle), 1e-12)
          << "row " << row << " dimension " << d;
      EXPECT_NEAR(ElementAt(tables.sines, row * 4 + d), factor * std::sin(angle), 1e-12)
          << "row " << row << " dimension " << d;
    }
  }
  ~RopeTablesTest() override { context_.arena().RewindTo(0); }

  TestContext context_;
};

TEST_F(RopeTablesTest, PositionsBeginAtTheSegmentsFirstPosition) {
  const RopeConfig rope = Rope(10000.0);
  const auto frequencies = RopeInverseFrequencies(rope, 8, 1);
  const std::vector<Segment> segments = {
      {.query_begin = 0, .query_count = 3, .key_begin = 0, .first_position = 0},
      {.query_begin = 3, .query_count = 2, .key_begin = 50, .first_position = 700},
      {.query_begin = 5, .query_count = 1, .key_begin = 3, .first_position = 0}};
  const RotaryTables tables = Tables(rope, 1024, segments, 6);
  const std::vector<int64_t> positions = {0, 1, 2, 700, 701, 0};
  for (int64_t row = 0; row < 6; ++row)
    ExpectRow(tables, row, positions[static_cast<size_t>(row)], frequencies);
}

TEST_F(RopeTablesTest, LongRopeFactorsFollowEachDocumentsLengthInAModelOfTheOriginalLength) {
  const RopeConfig rope = LongRope();
  const auto short_ones = RopeInverseFrequencies(rope, 8, 32);
  const auto long_ones = RopeInverseFrequencies(rope, 8, 33);
  const std::vector<Segment> segments = {
      {.query_begin = 0, .query_count = 32, .key_begin = 0},
      {.query_begin = 32, .query_count = 33, .key_begin = 32},
      {.query_begin = 65, .query_count = 1, .key_begin = 65, .first_position = 31}};
  const RotaryTables tables = Tables(rope, 32, segments, 66);
  ExpectRow(tables, 7, 7, short_ones);
  ExpectRow(tables, 31, 31, short_ones);
  ExpectRow(tables, 39, 7, long_ones);
  ExpectRow(tables, 65, 31, short_ones);
}

}  // namespace
}  // namespace salamander
