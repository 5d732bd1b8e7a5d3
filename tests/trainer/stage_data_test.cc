#include "trainer/run/stage_data.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"
#include "tests/storage/temporary_directory.h"

namespace salamander {
namespace {

constexpr int64_t kDocuments = 20;
constexpr int64_t kDocumentTokens = 40;
constexpr int32_t kFirstId = 128;  // beyond the words of a needle

// Every document is made of one id of its own, so that a token says where it comes from.
void WriteTokenFile(const std::string& path) {
  auto writer = TokenFileWriter::Create(path, *MakeByteTokenizer(), false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (int64_t document = 0; document < kDocuments; ++document) {
    const std::vector<int32_t> tokens(kDocumentTokens, kFirstId + static_cast<int32_t>(document));
    ASSERT_TRUE((*writer)->AddDocument(tokens, {}).ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
}

// One source holds a quarter of the file out and measures on it; another one of `kind` reads the
// same file, and trains.
Recipe RecipeOf(SourceKind kind, const std::string& measured, const std::string& trained) {
  Recipe recipe;
  recipe.data["measured"] = {.path = measured, .held_out = 0.25};
  recipe.data["trained"] = {.kind = kind, .path = trained};
  return recipe;
}

std::set<int32_t> HeldOutIds(const RunData& data) {
  std::set<int32_t> ids;
  const auto held_out = data.HeldOut(kDocumentTokens);
  EXPECT_TRUE(held_out.ok()) << held_out.status();
  for (int64_t index = 0; index < (*held_out)->size(); ++index) {
    const auto sequence = (*held_out)->Sequence(index);
    EXPECT_TRUE(sequence.ok()) << sequence.status();
    ids.insert(sequence->tokens.begin(), sequence->tokens.end());
  }
  return ids;
}

// How often each document's id stands in the first sequences that training sees.
std::map<int32_t, int> TrainedIds(const RunData& data) {
  StageConfig stage;
  stage.sequence_length = 256;
  stage.mixture = {{"trained", 1.0}};
  const auto sequences = data.StageSequences(stage, {});
  EXPECT_TRUE(sequences.ok()) << sequences.status();
  std::map<int32_t, int> counts;
  for (int64_t index = 0; index < 40; ++index) {
    const auto sequence = (*sequences)->Sequence(index);
    EXPECT_TRUE(sequence.ok()) << sequence.status();
    for (const int32_t id : sequence->tokens) ++counts[id];
  }
  return counts;
}

class StageDataTest : public testing::TestWithParam<SourceKind> {};

TEST_P(StageDataTest, NoSourceTrainsOnWhatAnotherHoldsOutOfTheSameFile) {
  const TemporaryDirectory directory;
  WriteTokenFile(directory / "text.h5");
  // The same file under another spelling.
  const auto data = RunData::Open(
      RecipeOf(GetParam(), directory / "text.h5", absl::StrCat(directory.path(), "/./text.h5")));
  ASSERT_TRUE(data.ok()) << data.status();
  const std::set<int32_t> held_out = HeldOutIds(*data);
  ASSERT_EQ(held_out.size(), 5U);
  const std::map<int32_t, int> trained = TrainedIds(*data);
  EXPECT_GE(trained.size(), static_cast<size_t>(kDocuments) - held_out.size());
  // A needle's own words and ids take a few tokens; a document's take whole runs.
  for (const int32_t id : held_out) {
    const auto found = trained.find(id);
    EXPECT_LT(found == trained.end() ? 0 : found->second, kDocumentTokens) << "document " << id;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, StageDataTest,
                         testing::Values(SourceKind::kTokens, SourceKind::kNeedle),
                         [](const auto& kind) {
                           return kind.param == SourceKind::kTokens ? "Tokens" : "Needle";
                         });

}  // namespace
}  // namespace salamander
