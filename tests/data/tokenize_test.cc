#include "data/text/tokenize.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/data/data_test_support.h"

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(TokenizeTest, DocumentsEndWithEosInReadingOrder) {
  const TemporaryFolder folder;
  WriteFile(folder / "in/a.txt", "ab");
  WriteFile(folder / "in/b.txt", "");
  WriteFile(folder / "in/c.jsonl", "{\"text\": \"c\"}\n{\"input_ids\": [7, 8]}\n");
  const auto tokenizer = MakeByteTokenizer();
  auto reader = OpenDocuments({.paths = {folder / "in"}});
  auto writer = TokenFileWriter::Create(folder / "out.tokens", *tokenizer, true);
  ASSERT_TRUE(reader.ok() && writer.ok());
  // A batch of one byte: every document is a batch of its own.
  const auto report = TokenizeDocuments(reader->get(), *tokenizer,
                                        {.add_bos = true, .batch_bytes = 1}, writer->get());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->documents, 3);
  EXPECT_EQ(report->empty_documents, 1);
  EXPECT_EQ(report->tokens, 9);
  EXPECT_EQ(report->text_bytes, 3);
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto file = TokenFileReader::Open(folder / "out.tokens");
  ASSERT_TRUE(file.ok());
  std::vector<int32_t> tokens(9);
  ASSERT_TRUE((*file)->ReadTokens(0, absl::MakeSpan(tokens)).ok());
  EXPECT_THAT(tokens, ElementsAre(256, 97, 98, 257, 256, 99, 257, 7, 8));
  EXPECT_THAT((*file)->document_offsets(), ElementsAre(0, 4, 7, 9));
}

TEST(TokenizeTest, IdOutsideTheVocabularyNamesItsLine) {
  const TemporaryFolder folder;
  WriteFile(folder / "in.jsonl", "{\"input_ids\": [1]}\n{\"input_ids\": [1, 5000]}\n");
  const auto tokenizer = MakeIdTokenizer(5000, -1, -1);
  auto reader = OpenDocuments({.paths = {folder / "in.jsonl"}});
  auto writer = TokenFileWriter::Create(folder / "out.tokens", **tokenizer, false);
  ASSERT_TRUE(reader.ok() && writer.ok());
  const auto report = TokenizeDocuments(reader->get(), **tokenizer, {}, writer->get());
  EXPECT_THAT(report.status().ToString(), HasSubstr("in.jsonl:2: token 1 is id 5000"));
}

TEST(TokenizeTest, TokenizerLearnsFromABoundedSample) {
  const TemporaryFolder folder;
  for (int i = 0; i < 200; ++i) {
    WriteFile(folder / ("in/" + std::to_string(i) + ".txt"),
              "document " + std::to_string(i) + " says that salamanders walk through fire\n");
  }
  const auto train = [&](uint64_t seed) {
    auto reader = OpenDocuments({.paths = {folder / "in"}});
    EXPECT_TRUE(reader.ok());
    auto tokenizer =
        TrainTokenizer(reader->get(), {.vocab_size = 340, .sample_bytes = 2000, .seed = seed});
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  };
  EXPECT_EQ(train(1)->Fingerprint(), train(1)->Fingerprint());
  EXPECT_LT(train(1)->Encode("salamanders walk through fire")->size(), 15u);
}

}  // namespace
}  // namespace salamander
