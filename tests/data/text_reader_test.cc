#include "data/text/text_reader.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/data/data_test_support.h"

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

absl::StatusOr<std::vector<Document>> ReadAll(const TextReaderOptions& options) {
  auto reader = OpenDocuments(options);
  if (!reader.ok()) return reader.status();
  std::vector<Document> documents;
  while (true) {
    Document document;
    const auto found = (*reader)->Next(&document);
    if (!found.ok()) return found.status();
    if (!*found) return documents;
    documents.push_back(std::move(document));
  }
}

std::string ErrorOfLine(const std::string& line) {
  const TemporaryFolder folder;
  WriteFile(folder / "in.jsonl", "{\"text\": \"fine\"}\n\n" + line + "\n");
  const auto documents = ReadAll({.paths = {folder / "in.jsonl"}});
  EXPECT_FALSE(documents.ok()) << line;
  const std::string message = documents.status().ToString();
  EXPECT_THAT(message, HasSubstr("in.jsonl:3: "));
  return message;
}

TEST(TextReaderTest, DirectoriesAreWalkedInOrderByPattern) {
  const TemporaryFolder folder;
  WriteFile(folder / "b.h", "second");
  WriteFile(folder / "a/z.h", "first");
  WriteFile(folder / "a/z.c", "not read");
  WriteFile(folder / "c/d/e.hpp", "third");
  const auto documents = ReadAll({.paths = {folder.path()}, .patterns = {"*.h", "*.hpp"}});
  ASSERT_TRUE(documents.ok()) << documents.status();
  ASSERT_EQ(documents->size(), 3u);
  EXPECT_EQ((*documents)[0].text, "first");
  EXPECT_EQ((*documents)[1].text, "second");
  EXPECT_EQ((*documents)[2].text, "third");
  EXPECT_EQ((*documents)[2].origin, folder / "c/d/e.hpp");
}

TEST(TextReaderTest, JsonLinesHoldTextOrIds) {
  const TemporaryFolder folder;
  WriteFile(folder / "in.jsonl",
            "{\"body\": \"a\\nb \\u00e9\"}\n"
            "\n"
            "{\"input_ids\": [3, 1, 2], \"loss_mask\": [0, true, 1]}\r\n"
            "{\"input_ids\": [4], \"body\": \"ignored\"}");
  const auto documents = ReadAll({.paths = {folder / "in.jsonl"}, .text_field = "body"});
  ASSERT_TRUE(documents.ok()) << documents.status();
  ASSERT_EQ(documents->size(), 3u);
  EXPECT_EQ((*documents)[0].text, "a\nb é");
  EXPECT_FALSE((*documents)[0].is_tokenized);
  EXPECT_TRUE((*documents)[1].is_tokenized);
  EXPECT_THAT((*documents)[1].ids, ElementsAre(3, 1, 2));
  EXPECT_THAT((*documents)[1].loss_mask, ElementsAre(0, 1, 1));
  EXPECT_THAT((*documents)[2].loss_mask, IsEmpty());
  EXPECT_EQ((*documents)[2].origin, folder / "in.jsonl:4");
}

TEST(TextReaderTest, BadLinesAreNamed) {
  EXPECT_THAT(ErrorOfLine("{\"text\": \"cut"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOfLine("{\"text\": \"\xff\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOfLine("[1, 2]"), HasSubstr("expected an object"));
  EXPECT_THAT(ErrorOfLine("{\"content\": \"x\"}"), HasSubstr("the object has: content"));
  EXPECT_THAT(ErrorOfLine("{\"text\": 3}"), HasSubstr("expected a string"));
  EXPECT_THAT(ErrorOfLine("{\"input_ids\": \"x\"}"), HasSubstr("expected an array"));
  EXPECT_THAT(ErrorOfLine("{\"input_ids\": [1, -2]}"), HasSubstr("\"input_ids\"[1] is -2"));
  EXPECT_THAT(ErrorOfLine("{\"input_ids\": [1.5]}"), HasSubstr("\"input_ids\"[0]"));
  EXPECT_THAT(ErrorOfLine("{\"input_ids\": [1, 2], \"loss_mask\": [1]}"),
              HasSubstr("has 1 entries"));
  EXPECT_THAT(ErrorOfLine("{\"input_ids\": [1], \"loss_mask\": [2]}"), HasSubstr("from 0 to 1"));
}

TEST(TextReaderTest, MissingInputIsAnError) {
  const TemporaryFolder folder;
  EXPECT_THAT(ListFiles({.paths = {folder / "none.txt"}}).status().ToString(),
              HasSubstr("No such file"));
  WriteFile(folder / "a.txt", "x");
  EXPECT_THAT(ListFiles({.paths = {folder.path()}, .patterns = {"*.md"}}).status().ToString(),
              HasSubstr("no file matches *.md"));
}

}  // namespace
}  // namespace salamander
