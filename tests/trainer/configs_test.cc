// Every file under configs/ is read and checked.
#include <cmath>
#include <filesystem>
#include <iterator>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "model/parameters.h"
#include "trainer/config/recipe.h"
#include "trainer/config/small_files.h"

namespace salamander {
namespace {

using testing::UnorderedElementsAre;

const std::filesystem::path kConfigs = std::filesystem::path(SALAMANDER_SOURCE_DIR) / "configs";

std::set<std::string> FilesIn(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs / folder))
    names.insert(entry.path().filename().string());
  return names;
}

ModelConfig Shape(const std::string& name) {
  const auto shape = ReadModelShape((kConfigs / "models" / name).string());
  EXPECT_TRUE(shape.ok()) << shape.status();
  return shape.ok() ? *shape : ModelConfig();
}

TEST(ConfigsTest, HoldsTheFoldersThatAreTested) {
  EXPECT_THAT(FilesIn(""), UnorderedElementsAre("models", "recipes", "select", "sparse"));
}

TEST(ConfigsTest, ModelShapesAreValid) {
  for (const std::string& name : FilesIn("models")) {
    ModelConfig config = Shape(name);
    if (config.vocabulary == 0) config.vocabulary = 264;  // the data's
    EXPECT_TRUE(config.Validate().ok()) << name << ": " << config.Validate();
  }
}

// The numbers of parameters that the models are published with.
TEST(ConfigsTest, ModelShapesHaveThePublishedParameters) {
  EXPECT_EQ(ParameterLayout(Shape("llama3_8b.yaml")).parameter_count(), 8030261248);
  EXPECT_EQ(ParameterLayout(Shape("qwen3_1.7b.yaml")).parameter_count(), 1720574976);
  EXPECT_EQ(ParameterLayout(Shape("minicpm4_8b.yaml")).parameter_count(), 8185253888);
}

TEST(ConfigsTest, FamiliesBringTheirArithmetic) {
  const ModelConfig qwen = Shape("qwen3_1.7b.yaml");
  EXPECT_EQ(qwen.family, ModelFamily::kQwen3);
  EXPECT_TRUE(qwen.softmax.use_qk_norm);
  EXPECT_EQ(qwen.max_positions, 40960);
  EXPECT_EQ(qwen.rope.theta, 1e6);
  const ModelConfig minicpm = Shape("minicpm4_8b.yaml");
  EXPECT_EQ(minicpm.embedding_scale, 12.0);
  EXPECT_DOUBLE_EQ(minicpm.residual_scale, 1.4 / std::sqrt(32.0));
  EXPECT_DOUBLE_EQ(minicpm.logit_scale, 1.0 / 16.0);
  EXPECT_FALSE(minicpm.softmax.use_qk_norm);
  EXPECT_FALSE(minicpm.tie_embeddings);
}

TEST(ConfigsTest, TheDemosBaseGivesSelectionAChoice) {
  const ModelConfig config = Shape("demo_base.yaml");
  EXPECT_GE(config.layer_count(), 12);
  EXPECT_EQ(config.vocabulary, 0);
  EXPECT_TRUE(config.tie_embeddings);
}

TEST(ConfigsTest, SparseSectionsAreValid) {
  for (const std::string& name : FilesIn("sparse")) {
    const auto sparse = ReadSparseConfig((kConfigs / "sparse" / name).string());
    ASSERT_TRUE(sparse.ok()) << sparse.status();
    ModelConfig config = Shape("minicpm4_8b.yaml");
    config.softmax.use_sparse = true;
    config.softmax.sparse = *sparse;
    EXPECT_TRUE(config.Validate().ok()) << name << ": " << config.Validate();
  }
}

TEST(ConfigsTest, MiniCpmSalaSelects96Blocks) {
  const auto sparse = ReadSparseConfig((kConfigs / "sparse/minicpm_sala.yaml").string());
  ASSERT_TRUE(sparse.ok()) << sparse.status();
  EXPECT_EQ(*sparse, SparseConfig());
  EXPECT_EQ(sparse->selected_blocks(), 96);
}

TEST(ConfigsTest, SelectionsAreRead) {
  for (const std::string& name : FilesIn("select")) {
    const auto selection = ReadSelection((kConfigs / "select" / name).string());
    EXPECT_TRUE(selection.ok()) << selection.status();
  }
  const auto halo = ReadSelection((kConfigs / "select/halo.yaml").string());
  ASSERT_TRUE(halo.ok());
  EXPECT_EQ(halo->scorer, ScorerKind::kHaloRatio);
  EXPECT_EQ(halo->keep_fraction, 0.25);
  EXPECT_TRUE(halo->force_first && halo->force_last);
}

constexpr int kSalaRanks = 8;
constexpr int kDemoRanks = 2;

TEST(ConfigsTest, RecipesAreConsistent) {
  for (const std::string& name : FilesIn("recipes")) {
    const auto recipe = ReadRecipe((kConfigs / "recipes" / name).string(), {});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    const bool is_demo = name.rfind("demo_", 0) == 0;
    const absl::Status status =
        is_demo ? recipe->Validate(kDemoRanks) : recipe->Validate(kSalaRanks);
    EXPECT_TRUE(status.ok()) << name << ": " << status;
  }
}

// Table 1 of the paper, tokens in units of 10^8, and the step counts that its numbers fit to.
TEST(ConfigsTest, MiniCpmSalaFollowsThePublishedTable) {
  struct Row {
    std::string name;
    int64_t sequence_length, tokens, sequences, steps;
    double peak, final;
    bool sparse;
  };
  const Row rows[] = {
      {"stable", 4096, 3146, 1920, 40000, 7.5e-3, -1, false},
      {"short_decay", 4096, 10066, 1920, 128000, 7.5e-3, 3.75e-4, false},
      {"long_32k", 32768, 1022, 240, 13000, 3e-4, 2e-4, true},
      {"long_160k", 163840, 629, 60, 6400, 2e-4, 1e-4, true},
      {"long_520k", 532480, 506, 19, 5000, 1e-4, 3.75e-5, true},
      {"sft_64k", 65536, 2045, 240, 13000, 1e-3, 1e-4, true},
      {"sft_140k", 143360, 2133, 124, 12000, 1e-3, 1e-4, true},
  };
  const auto recipe = ReadRecipe((kConfigs / "recipes/minicpm_sala.yaml").string(), {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  ASSERT_GE(recipe->stages.size(), std::size(rows));
  const auto* stage = &recipe->stages[recipe->stages.size() - std::size(rows)];
  for (const Row& row : rows) {
    EXPECT_EQ(stage->name, row.name);
    EXPECT_EQ(stage->objective, ObjectiveKind::kLm);
    EXPECT_EQ(stage->train, TrainableSet::kAll);
    EXPECT_EQ(stage->sequence_length, row.sequence_length) << row.name;
    EXPECT_EQ(stage->tokens, row.tokens * 100000000) << row.name;
    EXPECT_EQ(stage->sequences_per_batch(), row.sequences) << row.name;
    EXPECT_NEAR(static_cast<double>(stage->steps()), static_cast<double>(row.steps),
                1e-3 * static_cast<double>(row.steps))
        << row.name;
    EXPECT_EQ(stage->learning_rate.peak, row.peak) << row.name;
    EXPECT_EQ(stage->learning_rate.final, row.final) << row.name;
    EXPECT_EQ(stage->sparse, row.sparse) << row.name;
    ++stage;
  }
}

TEST(ConfigsTest, MiniCpmSalaConvertsWithHalosBudget) {
  const auto recipe = ReadRecipe((kConfigs / "recipes/minicpm_sala.yaml").string(), {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  int64_t tokens = 0;
  for (const StageConfig& stage : recipe->stages) {
    if (stage.kind != StageKind::kTrain || stage.sequence_length != 512) continue;
    EXPECT_EQ(stage.steps(), 20000) << stage.name;
    tokens += stage.tokens;
  }
  EXPECT_NEAR(static_cast<double>(tokens), 1.3e9, 0.02e9);
}

}  // namespace
}  // namespace salamander
