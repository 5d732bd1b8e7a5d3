#include "trainer/config/small_files.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A YAML file in a folder of its own that goes with the test.
class SmallFilesTest : public testing::Test {
 protected:
  SmallFilesTest() {
    std::string name = (std::filesystem::temp_directory_path() / "salamander-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~SmallFilesTest() override { std::filesystem::remove_all(folder_); }

  std::string File(const std::string& text) const {
    std::ofstream(folder_ + "/file.yaml", std::ios::binary) << text;
    return folder_ + "/file.yaml";
  }

  std::string folder_;
};

constexpr char kShape[] =
    "family: llama\nlayers: 2\nwidth: 8\nintermediate: 16\nheads: 2\nkv_heads: 1\nhead_dim: 4\n"
    "max_positions: 1K\n";

template <typename Value>
std::string Message(const absl::StatusOr<Value>& value) {
  return std::string(value.status().message());
}

TEST_F(SmallFilesTest, ReadsAModelShapeWithItsDefaults) {
  const auto shape = ReadModelShape(File(kShape));
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->layer_count(), 2);
  EXPECT_EQ(shape->max_positions, 1024);
  EXPECT_EQ(shape->vocabulary, 0);
  EXPECT_EQ(shape->norm_epsilon, 1e-6);
  EXPECT_EQ(shape->embedding_scale, 1.0);
  EXPECT_EQ(shape->residual_scale, 1.0);
  EXPECT_EQ(shape->logit_scale, 1.0);
  EXPECT_FALSE(shape->softmax.use_qk_norm);
}

TEST_F(SmallFilesTest, RefusesAShapeThatCannotBe) {
  const std::pair<std::string, std::string> edits[] = {
      {"width: 8", "width: 0"},
      {"width: 8", "widht: 8"},
      {"family: llama", "family: lama"},
      {"heads: 2", "heads: two"},
      {"head_dim: 4\n", ""},
      {"layers: 2", "layers: 4000000000"},
      {"intermediate: 16", "intermediate: 9000000000000000000"},
  };
  const std::string said[] = {"width: '0' is out of range",
                              "did you mean width?",
                              "did you mean llama?",
                              "'two'; expected a whole number",
                              "head_dim: is missing",
                              "layers",
                              "intermediate"};
  for (size_t index = 0; index < std::size(edits); ++index) {
    std::string text = kShape;
    text.replace(text.find(edits[index].first), edits[index].first.size(), edits[index].second);
    const auto shape = ReadModelShape(File(text));
    ASSERT_FALSE(shape.ok()) << text;
    EXPECT_THAT(Message(shape), AllOf(HasSubstr("file.yaml"), HasSubstr(said[index])));
  }
}

TEST_F(SmallFilesTest, NamesAFileThatIsNotThere) {
  const std::string path = folder_ + "/none.yaml";
  EXPECT_THAT(Message(ReadModelShape(path)), HasSubstr("none.yaml"));
  EXPECT_THAT(Message(ReadSparseConfig(path)), HasSubstr("none.yaml"));
  EXPECT_THAT(Message(ReadSelection(path)), HasSubstr("none.yaml"));
  EXPECT_THAT(Message(ReadKeptLayers(path)), HasSubstr("none.yaml"));
}

TEST_F(SmallFilesTest, AnEmptySparseFileIsThePublishedSection) {
  const auto sparse = ReadSparseConfig(File("{}\n"));
  ASSERT_TRUE(sparse.ok()) << sparse.status();
  EXPECT_EQ(*sparse, SparseConfig());
}

TEST_F(SmallFilesTest, ReadsASelection) {
  const auto selection = ReadSelection(File("scorer: explicit\nlayers: [0, 3]\nforce_last: no\n"));
  ASSERT_TRUE(selection.ok()) << selection.status();
  EXPECT_EQ(selection->scorer, ScorerKind::kExplicit);
  EXPECT_THAT(selection->layers, ElementsAre(0, 3));
  EXPECT_TRUE(selection->force_first);
  EXPECT_FALSE(selection->force_last);
  EXPECT_THAT(Message(ReadSelection(File("scorer: halo\n"))),
              HasSubstr("expected halo_ratio, recall_drop, uniform, explicit"));
  EXPECT_THAT(Message(ReadSelection(File("keep_fraction: 25\n"))), HasSubstr("expected 0 to 1"));
}

TEST_F(SmallFilesTest, KeptLayersReadBackAsWritten) {
  const KeptLayers kept{
      .layers = {0, 9, 31}, .scorer = "halo_ratio", .candidates = "runs/an \"odd\" \\ name"};
  const auto read = ReadKeptLayers(File(KeptLayersText(kept)));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->layers, kept.layers);
  EXPECT_EQ(read->scorer, kept.scorer);
  EXPECT_EQ(read->candidates, kept.candidates);
}

TEST_F(SmallFilesTest, KeptLayersMayBeAList) {
  const auto kept = ReadKeptLayers("0,3,11");
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_THAT(kept->layers, ElementsAre(0, 3, 11));
  EXPECT_THAT(kept->scorer, IsEmpty());
  EXPECT_THAT(ReadKeptLayers("7")->layers, ElementsAre(7));
  EXPECT_FALSE(ReadKeptLayers("0,,3").ok());
  EXPECT_FALSE(ReadKeptLayers("").ok());
}

}  // namespace
}  // namespace salamander
