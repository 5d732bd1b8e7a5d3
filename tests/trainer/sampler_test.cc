#include "trainer/generate/sampler.h"

#include <cmath>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace salamander {
namespace {

const std::vector<float> kLogits = {1.0F, 3.0F, -2.0F, 2.5F, 3.0F, 0.0F};

// What each token's share is over many positions of one sequence.
std::vector<double> Shares(const SamplingOptions& options) {
  constexpr int64_t kDraws = 40000;
  std::vector<double> shares(kLogits.size(), 0.0);
  for (int64_t position = 0; position < kDraws; ++position)
    shares[static_cast<size_t>(SampleToken(kLogits, options, 0, position))] += 1.0 / kDraws;
  return shares;
}

// Softmax over some of the tokens.
std::vector<double> Softmax(double temperature, const std::set<size_t>& tokens) {
  std::vector<double> weights(kLogits.size(), 0.0);
  double total = 0.0;
  for (const size_t token : tokens) {
    weights[token] = std::exp(static_cast<double>(kLogits[token]) / temperature);
    total += weights[token];
  }
  for (double& weight : weights) weight /= total;
  return weights;
}

// Five standard deviations of a share over 40000 draws are at most 0.0125; what has no probability
// is never drawn.
void ExpectShares(const SamplingOptions& options, const std::vector<double>& expected) {
  const std::vector<double> shares = Shares(options);
  for (size_t token = 0; token < shares.size(); ++token) {
    EXPECT_NEAR(shares[token], expected[token], expected[token] == 0.0 ? 0.0 : 0.0125)
        << "token " << token;
  }
}

TEST(SamplerTest, TemperatureZeroTakesTheLowestOfTheLargest) {
  for (const uint64_t seed : {0U, 1U, 2U})
    EXPECT_EQ(SampleToken(kLogits, {.temperature = 0.0, .seed = seed}, 3, 9), 1);
}

TEST(SamplerTest, DrawsFromTheSoftmaxAtItsTemperature) {
  const std::set<size_t> all = {0, 1, 2, 3, 4, 5};
  ExpectShares({.temperature = 1.0, .seed = 1}, Softmax(1.0, all));
  ExpectShares({.temperature = 3.0, .seed = 2}, Softmax(3.0, all));
}

TEST(SamplerTest, TopKKeepsTheKLargestAndTheLowerIndexOfEquals) {
  ExpectShares({.temperature = 2.0, .top_k = 3, .seed = 3}, Softmax(2.0, {1, 3, 4}));
  ExpectShares({.temperature = 2.0, .top_k = 1, .seed = 4}, Softmax(2.0, {1}));
  ExpectShares({.temperature = 2.0, .top_k = 100, .seed = 5}, Softmax(2.0, {0, 1, 2, 3, 4, 5}));
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachItsShare) {
  // At temperature 1 the two largest hold 0.36 each, the third 0.22.
  ExpectShares({.temperature = 1.0, .top_p = 0.3, .seed = 6}, Softmax(1.0, {1}));
  ExpectShares({.temperature = 1.0, .top_p = 0.5, .seed = 7}, Softmax(1.0, {1, 4}));
  ExpectShares({.temperature = 1.0, .top_p = 0.9, .seed = 8}, Softmax(1.0, {1, 3, 4}));
  ExpectShares({.temperature = 1.0, .top_p = 0.0, .seed = 9}, Softmax(1.0, {1}));
}

TEST(SamplerTest, TopPCountsSharesOfWhatTopKLeft) {
  // Of the three largest at temperature 1, two hold 0.77.
  ExpectShares({.temperature = 1.0, .top_k = 3, .top_p = 0.75, .seed = 10}, Softmax(1.0, {1, 4}));
}

TEST(SamplerTest, IsAFunctionOfSeedSequenceAndPosition) {
  const auto draws = [](uint64_t seed, int64_t sequence) {
    std::vector<int32_t> tokens;
    for (int64_t position = 0; position < 40; ++position)
      tokens.push_back(
          SampleToken(kLogits, {.temperature = 2.0, .seed = seed}, sequence, position));
    return tokens;
  };
  EXPECT_EQ(draws(1, 0), draws(1, 0));
  EXPECT_NE(draws(1, 0), draws(2, 0));
  EXPECT_NE(draws(1, 0), draws(1, 1));
  const std::vector<int32_t> one = draws(1, 0);
  EXPECT_GT(std::set<int32_t>(one.begin(), one.end()).size(), 2U);
}

TEST(SamplerTest, LogitsOfAnySizeAreDrawnFromWithoutOverflow) {
  const std::vector<float> large = {-3e38F, 1000.0F, 1000.0F, -1e30F};
  std::set<int32_t> drawn;
  for (int64_t position = 0; position < 100; ++position)
    drawn.insert(SampleToken(large, {.temperature = 0.5, .seed = 1}, 0, position));
  EXPECT_THAT(drawn, testing::ElementsAre(1, 2));
}

}  // namespace
}  // namespace salamander
