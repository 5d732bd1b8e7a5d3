#include "data/sequences/mixture.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "data/sequences/token_sequences.h"
#include "tests/data/data_test_support.h"

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(MixtureTest, ProportionsAreExactOverTime) {
  const std::vector<double> weights = {5, 0.5, 3, 1, 0, 0.5};
  const auto schedule = MixtureSchedule::Create(weights);
  ASSERT_TRUE(schedule.ok());
  std::vector<int64_t> counts(weights.size());
  for (int64_t n = 0; n < 20000; ++n) {
    ASSERT_EQ(schedule->Counts(n), counts) << n;
    const auto draw = schedule->At(n);
    ASSERT_EQ(draw.index, counts[draw.source]) << n;
    ++counts[draw.source];
    for (size_t source = 0; source < weights.size(); ++source) {
      const double expected = weights[source] / 10 * static_cast<double>(n + 1);
      // Six sources make a tree of depth three; the share itself is rounded to 2^-32.
      ASSERT_LT(std::abs(static_cast<double>(counts[source]) - expected), 3.0) << n;
    }
  }
  EXPECT_THAT(counts, ElementsAre(10000, 1000, 6000, 2000, 0, 1000));
}

TEST(MixtureTest, StaysExactFarOut) {
  const auto schedule = MixtureSchedule::Create({0.3, 0.7});
  ASSERT_TRUE(schedule.ok());
  const int64_t n = 1'000'000'000'000;
  // The share is rounded to 2^-32, half a unit of which is 116 in a million million.
  EXPECT_NEAR(static_cast<double>(schedule->Counts(n)[0]), 0.3e12, 118);
  EXPECT_EQ(schedule->Counts(n)[0] + schedule->Counts(n)[1], n);
}

TEST(MixtureTest, ImpossibleWeightsAreRefused) {
  EXPECT_FALSE(MixtureSchedule::Create({}).ok());
  EXPECT_FALSE(MixtureSchedule::Create({0, 0}).ok());
  EXPECT_THAT(MixtureSchedule::Create({1, -1}).status().ToString(), HasSubstr("weight 1"));
  EXPECT_FALSE(MixtureSchedule::Create({NAN}).ok());
  EXPECT_FALSE(MixtureSchedule::Create({INFINITY, 1}).ok());
}

class SequenceMixtureTest : public testing::Test {
 protected:
  std::unique_ptr<SequenceMixture> Open(std::vector<SourcePosition> starts, int64_t length,
                                        std::vector<double> weights) {
    std::vector<MixtureComponent> components;
    const std::shared_ptr<const TokenFileReader> files[] = {first_, second_};
    for (int i = 0; i < 2; ++i) {
      auto stream = TokenSequences::Create(
          files[i], {.sequence_length = length, .seed = 21, .start = starts[i]});
      EXPECT_TRUE(stream.ok()) << stream.status();
      components.push_back({.name = "source" + std::to_string(i),
                            .weight = weights[i],
                            .stream = *std::move(stream)});
    }
    auto mixture = SequenceMixture::Create(std::move(components));
    EXPECT_TRUE(mixture.ok()) << mixture.status();
    return *std::move(mixture);
  }

  const TemporaryFolder folder_;
  // Ids of the second file begin at 500000.
  const std::shared_ptr<const TokenFileReader> first_ =
      MakeTokenFile(folder_ / "1.tokens", CountingDocuments(200, 50, 1));
  const std::shared_ptr<const TokenFileReader> second_ =
      MakeTokenFile(folder_ / "2.tokens", CountingDocuments(200, 50, 2, 500000));
};

TEST_F(SequenceMixtureTest, EachSequenceComesFromItsSource) {
  const auto mixture = Open({{}, {}}, 32, {0.75, 0.25});
  int from_second = 0;
  for (int64_t n = 0; n < 80; ++n) {
    const auto sequence = mixture->Sequence(n);
    ASSERT_TRUE(sequence.ok());
    const bool is_second = sequence->tokens[0] >= 500000;
    EXPECT_EQ(mixture->SourceOf(n), is_second ? 1 : 0);
    from_second += is_second;
  }
  EXPECT_EQ(from_second, 20);
}

TEST_F(SequenceMixtureTest, SecondStageGoesOnInEachSource) {
  const auto first_stage = Open({{}, {}}, 16, {0.75, 0.25});
  const auto positions = first_stage->PositionsAt(40);
  const auto second_stage = Open(positions, 64, {0.25, 0.75});
  std::vector<int> seen(1000000);
  for (int64_t n = 0; n < 40; ++n) {
    const auto sequence = first_stage->Sequence(n);
    for (const int32_t id : sequence->tokens) ++seen[id];
  }
  for (int64_t n = 0; n < 40; ++n) {
    const auto sequence = second_stage->Sequence(n);
    for (const int32_t id : sequence->tokens) ++seen[id];
  }
  int64_t distinct = 0;
  for (const int times : seen) {
    EXPECT_LE(times, 1);
    distinct += times;
  }
  EXPECT_EQ(distinct, 40 * 16 + 40 * 64);
  // Without a gap: the first source gave 30 short and 10 long sequences of its stream.
  const auto alone = TokenSequences::Create(first_, {.sequence_length = 1, .seed = 21});
  ASSERT_TRUE(alone.ok());
  for (int64_t token = 0; token < 30 * 16 + 10 * 64; ++token) {
    EXPECT_EQ(seen[(*alone)->Sequence(token)->tokens[0]], 1) << token;
  }
}

TEST_F(SequenceMixtureTest, LengthsMustAgree) {
  std::vector<MixtureComponent> components;
  for (const int64_t length : {16, 32}) {
    components.push_back({.name = "source" + std::to_string(length),
                          .stream = *TokenSequences::Create(first_, {.sequence_length = length})});
  }
  EXPECT_THAT(SequenceMixture::Create(std::move(components)).status().ToString(),
              HasSubstr("source32"));
}

}  // namespace
}  // namespace salamander
