#include "model/conversion/layer_scores.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const ScoreColumns kColumns{.recall = {"fda", "swde", "ruler_qa_squad_4096"},
                            .common = {"arc_challenge", "arc_easy", "hellaswag"}};

ScoreTable Published(const std::string& name, int64_t layers) {
  std::ifstream file(std::string(SALAMANDER_SOURCE_DIR) + "/tests/model/data/" + name);
  std::stringstream text;
  text << file.rdbuf();
  auto table = ParseScoreTable(text.str(), kColumns, layers);
  EXPECT_TRUE(table.ok()) << table.status();
  return *table;
}

std::vector<int64_t> Kept(const ScoreTable& table, const SelectionOptions& options) {
  const auto scores = HaloRatioScorer({})->Score(table);
  EXPECT_TRUE(scores.ok()) << scores.status();
  const auto kept = SelectLayers(*scores, options);
  EXPECT_TRUE(kept.ok()) << kept.status();
  return *kept;
}

TEST(LayerScoresTest, ReplaysThePublishedQwen3Lists) {
  EXPECT_THAT(Kept(Published("halo_qwen3_1.7b.csv", 28),
                   {.keep_count = 7, .force_first = false, .force_last = false}),
              ElementsAre(2, 3, 6, 8, 9, 21, 25));
  EXPECT_THAT(Kept(Published("halo_qwen3_4b.csv", 36),
                   {.keep_count = 9, .force_first = false, .force_last = false}),
              ElementsAre(0, 1, 7, 14, 15, 22, 24, 33, 34));
}

TEST(LayerScoresTest, FirstAndLastAreKeptWhereForced) {
  // Layer 0 is in the 4B list already; 35 takes the place of 14, the lowest score on it.
  EXPECT_THAT(Kept(Published("halo_qwen3_4b.csv", 36), {.keep_count = 9}),
              ElementsAre(0, 1, 7, 15, 22, 24, 33, 34, 35));
}

TEST(LayerScoresTest, CapAndEpsilonOfPaperAndCodeAgree) {
  const ScoreTable table = Published("halo_qwen3_4b.csv", 36);
  const auto paper = HaloRatioScorer({.epsilon = 1e-6, .cap = 1e9})->Score(table);
  const auto code = HaloRatioScorer({.epsilon = 1e-10, .cap = 50})->Score(table);
  ASSERT_TRUE(paper.ok() && code.ok());
  const SelectionOptions options{.keep_count = 9, .force_first = false, .force_last = false};
  EXPECT_EQ(*SelectLayers(*paper, options), *SelectLayers(*code, options));
}

TEST(LayerScoresTest, EqualScoresGoToTheLowerLayer) {
  const std::vector<double> scores = {1, 2, 2, 2, 0};
  EXPECT_THAT(*SelectLayers(scores, {.keep_count = 2, .force_first = false, .force_last = false}),
              ElementsAre(1, 2));
  EXPECT_THAT(*SelectLayers(scores, {.keep_count = 3}), ElementsAre(0, 1, 4));
}

TEST(LayerScoresTest, UniformSpreadsOverTheLayers) {
  EXPECT_THAT(*UniformLayers(12, {.keep_count = 3}), ElementsAre(0, 5, 11));
  EXPECT_THAT(*UniformLayers(12, {.keep_count = 3, .force_last = false}), ElementsAre(0, 4, 8));
}

TEST(LayerScoresTest, UniformKeepsTheForcedLastLayerWhereItIsTheOnlyOne) {
  EXPECT_THAT(*UniformLayers(12, {.keep_count = 1, .force_first = false}), ElementsAre(11));
  EXPECT_THAT(*UniformLayers(1, {.keep_count = 1}), ElementsAre(0));
}

TEST(LayerScoresTest, RefusesToKeepMoreThanThereAreOrFewerThanForced) {
  const std::vector<double> scores = {1, 2, 3};
  EXPECT_FALSE(SelectLayers(scores, {.keep_count = 4}).ok());
  EXPECT_FALSE(SelectLayers(scores, {.keep_count = 1}).ok());
  EXPECT_FALSE(UniformLayers(3, {.keep_count = 0, .force_first = false, .force_last = false}).ok());
}

struct BadTable {
  std::string csv, message;
};

class ScoreTableTest : public testing::TestWithParam<BadTable> {};

TEST_P(ScoreTableTest, IsRefusedWithTheReason) {
  const auto table = ParseScoreTable(GetParam().csv, {.recall = {"r"}, .common = {"c"}}, 3);
  ASSERT_FALSE(table.ok());
  EXPECT_THAT(table.status().message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Bad, ScoreTableTest,
    testing::Values(BadTable{"layer,r,c\n0,1,1\n2,1,1\n", "layer 1 is missing"},
                    BadTable{"layer,r,c\n0,1,1\n1,nan,1\n2,1,1\n", "line 3: column 2 holds 'nan'"},
                    BadTable{"layer,r,c\n0,1,1\n1,,1\n2,1,1\n", "line 3: column 2 holds ''"},
                    BadTable{"layer,r,c\n0,1,1\n1,1,1\n1,1,1\n",
                             "layer 1 stands in the table twice"},
                    BadTable{"layer,r,c\n0,1,1\n1,1,1\n3,1,1\n", "layer 3 is outside 0..2"},
                    BadTable{"layer,r\n0,1\n", "there is no column 'c'"},
                    BadTable{"layer,r,c\n0,1\n", "line 2: 2 fields; the header has 3"},
                    BadTable{"layer,r,c\nx,1,1\n", "layer is 'x'"},
                    BadTable{"layer,r,c\n", "no rows"},
                    BadTable{"", "there is no column 'layer'"}));

TEST(LayerScoresTest, ScorersRefuseWhatIsNotFinite) {
  const ScoreTable table = {{.recall = 1, .common = 1}, {.recall = std::nan(""), .common = 1}};
  EXPECT_THAT(HaloRatioScorer({})->Score(table).status().message(), HasSubstr("layer 1"));
  EXPECT_FALSE(RecallDropScorer()->Score({}).ok());
}

}  // namespace
}  // namespace salamander
