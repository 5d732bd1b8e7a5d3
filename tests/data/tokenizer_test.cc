#include "data/text/tokenizer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/data/data_test_support.h"

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> SampleTexts() {
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i) {
    const std::string n = std::to_string(i * i);
    texts.push_back("static inline int value_" + n + "(void)\n{\n\treturn " + n +
                    ";  /* the value */\n}\n#define LIMIT_" + n + " 0x" + n + "\n");
  }
  return texts;
}

// Text that no training text holds: other scripts, runs of blanks, control bytes, no final line
// end.
const char* const kUnseen = "  été — 日本語 \t\t🦎\r\n\n    indented\x01 end  ";

TEST(TokenizerTest, BytesRoundTrip) {
  const auto tokenizer = MakeByteTokenizer();
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text.push_back(static_cast<char>(byte));
  const auto ids = tokenizer->Encode(text);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), 256u);
  EXPECT_EQ(*tokenizer->Decode(*ids), text);
  EXPECT_EQ(*tokenizer->Decode({72, tokenizer->eos_id(), 105}), "Hi");
}

TEST(TokenizerTest, SentencePieceRoundTripsAnyText) {
  const auto tokenizer = TrainSentencePieceTokenizer(SampleTexts(), 340);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 340);
  EXPECT_GE((*tokenizer)->eos_id(), 0);
  std::vector<std::string> texts = SampleTexts();
  const size_t known_bytes = texts[0].size();
  texts.push_back(kUnseen);
  for (const std::string& text : texts) {
    const auto ids = (*tokenizer)->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*(*tokenizer)->Decode(*ids), text);
  }
  EXPECT_LT((*tokenizer)->Encode(texts[0])->size(), known_bytes / 2) << "nothing was learnt";
}

TEST(TokenizerTest, TrainingTwiceGivesTheSameBytes) {
  const auto first = TrainSentencePieceTokenizer(SampleTexts(), 320);
  const auto second = TrainSentencePieceTokenizer(SampleTexts(), 320);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ((*first)->Serialized(), (*second)->Serialized());
  EXPECT_EQ((*first)->Fingerprint(), (*second)->Fingerprint());
}

TEST(TokenizerTest, SerializedFormGivesTheSameTokenizer) {
  std::vector<std::unique_ptr<Tokenizer>> tokenizers;
  tokenizers.push_back(MakeByteTokenizer());
  tokenizers.push_back(*MakeIdTokenizer(151936, -1, 151643));
  tokenizers.push_back(*TrainSentencePieceTokenizer(SampleTexts(), 320));
  for (const auto& tokenizer : tokenizers) {
    const auto again = DeserializeTokenizer(tokenizer->Serialized());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ((*again)->Fingerprint(), tokenizer->Fingerprint());
    EXPECT_EQ((*again)->vocab_size(), tokenizer->vocab_size());
    EXPECT_EQ((*again)->eos_id(), tokenizer->eos_id());
    EXPECT_EQ((*again)->bos_id(), tokenizer->bos_id());
    EXPECT_EQ(*(*again)->Encode("12 7 9"), *tokenizer->Encode("12 7 9"));
  }
  EXPECT_NE(tokenizers[0]->Fingerprint(), tokenizers[1]->Fingerprint());
}

TEST(TokenizerTest, IdsAreDecimalNumbers) {
  const auto tokenizer = MakeIdTokenizer(1000, 1, 2);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT(*(*tokenizer)->Encode(" 7 999\n0"), ElementsAre(7, 999, 0));
  EXPECT_EQ(*(*tokenizer)->Decode({7, 999, 0}), "7 999 0");
  EXPECT_THAT((*tokenizer)->Encode("7 word").status().ToString(), HasSubstr("\"word\""));
  EXPECT_THAT((*tokenizer)->Encode("7 1000").status().ToString(), HasSubstr("0 to 999"));
  EXPECT_FALSE(MakeIdTokenizer(1000, 1, 1000).ok());
}

TEST(TokenizerTest, WrongModelsAreRefusedByName) {
  const TemporaryFolder folder;
  const std::string path = folder / "wrong.model";
  WriteFile(path, "this is not a model");
  EXPECT_THAT(LoadSentencePieceTokenizer(path).status().ToString(), HasSubstr("wrong.model"));
  EXPECT_THAT(LoadSentencePieceTokenizer(folder / "none").status().ToString(),
              HasSubstr("No such file"));
  EXPECT_FALSE(DeserializeTokenizer("").ok());
  EXPECT_THAT(DeserializeTokenizer("salamander-tokenizer 1 words\n").status().ToString(),
              HasSubstr("known are sentencepiece, bytes and ids"));
  EXPECT_FALSE(DeserializeTokenizer("salamander-tokenizer 1 ids\n3 x 1\n").ok());
  EXPECT_THAT(MakeByteTokenizer()->Decode({264}).status().ToString(), HasSubstr("0 to 263"));
}

TEST(TokenizerTest, GivenModelFileIsRead) {
  const auto trained = TrainSentencePieceTokenizer(SampleTexts(), 320);
  ASSERT_TRUE(trained.ok());
  const std::string serialized = (*trained)->Serialized();
  const TemporaryFolder folder;
  WriteFile(folder / "a.model", serialized.substr(serialized.find('\n') + 1));
  const auto loaded = LoadSentencePieceTokenizer(folder / "a.model");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->Fingerprint(), (*trained)->Fingerprint());
}

TEST(TokenizerTest, TooLargeAVocabularySaysWhatToDo) {
  const auto tokenizer = TrainSentencePieceTokenizer({{"ab"}}, 5000);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_THAT(tokenizer.status().ToString(), HasSubstr("give more text or a smaller vocabulary"));
  EXPECT_FALSE(TrainSentencePieceTokenizer({}, 300).ok());
}

TEST(TokenizerTest, EncodeAllKeepsTheOrder) {
  const auto tokenizer = MakeByteTokenizer();
  std::vector<std::string> texts;
  for (int i = 0; i < 500; ++i) texts.push_back(std::string(i % 37, 'a') + std::to_string(i));
  const auto encoded = EncodeAll(*tokenizer, texts);
  ASSERT_TRUE(encoded.ok());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(*tokenizer->Decode((*encoded)[i]), texts[i]);
  }
}

}  // namespace
}  // namespace salamander
