#include "data/tokens/token_file.h"

#include <algorithm>
#include <csignal>

#include <sys/resource.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "data/storage/hdf5_file.h"
#include "data/tokens/file_seal.h"
#include "tests/data/data_test_support.h"

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::Status CheckBytes(const std::string& bytes) {
  return CheckTokenFileBytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

std::string SmallFile(const TemporaryFolder& folder) {
  const std::string path = folder / "small.tokens";
  const auto tokenizer = MakeByteTokenizer();
  auto writer = TokenFileWriter::Create(path, *tokenizer, true);
  EXPECT_TRUE(writer.ok()) << writer.status();
  EXPECT_TRUE((*writer)->AddDocument({1, 2, 3}, {0, 1, 1}).ok());
  EXPECT_TRUE((*writer)->AddDocument({257}, {}).ok());
  EXPECT_TRUE((*writer)->Finish().ok());
  return path;
}

TEST(TokenFileTest, ReadsBackWhatWasWritten) {
  const TemporaryFolder folder;
  // Several checksum blocks, in 4-byte ids.
  const Documents documents = CountingDocuments(300, 400, 5);
  const auto reader = MakeTokenFile(folder / "a.tokens", documents);
  std::vector<int32_t> all;
  for (const auto& document : documents) all.insert(all.end(), document.begin(), document.end());
  ASSERT_EQ(reader->info().token_count, static_cast<int64_t>(all.size()));
  ASSERT_GT(all.size(), 3 * 16384u);
  EXPECT_EQ(reader->info().document_count, 300);
  EXPECT_EQ(reader->info().bytes_per_token, 4);
  EXPECT_FALSE(reader->info().has_loss_mask);
  EXPECT_TRUE(reader->VerifyAll().ok());
  for (int d = 0; d < 300; ++d) {
    EXPECT_EQ(reader->document_offsets()[d + 1] - reader->document_offsets()[d],
              static_cast<int64_t>(documents[d].size()));
  }
  for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 1}, {16383, 2}, {16384, 16384}, {10, 40000}, {reader->info().token_count, 0}}) {
    std::vector<int32_t> read(count);
    ASSERT_TRUE(reader->ReadTokens(begin, absl::MakeSpan(read)).ok());
    EXPECT_TRUE(std::equal(read.begin(), read.end(), all.begin() + begin));
  }
}

TEST(TokenFileTest, CarriesMaskAndTokenizer) {
  const TemporaryFolder folder;
  const auto reader = TokenFileReader::Open(SmallFile(folder));
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<float> mask(4);
  ASSERT_TRUE((*reader)->ReadLossMask(0, absl::MakeSpan(mask)).ok());
  EXPECT_THAT(mask, ElementsAre(0, 1, 1, 1));
  EXPECT_THAT((*reader)->document_offsets(), ElementsAre(0, 3, 4));
  const auto tokenizer = DeserializeTokenizer((*reader)->serialized_tokenizer());
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->Fingerprint(), (*reader)->info().tokenizer_fingerprint);
  EXPECT_EQ((*reader)->info().bytes_per_token, 2);
  EXPECT_EQ((*reader)->info().vocab_size, 264);
  EXPECT_EQ((*reader)->info().eos_id, 257);
}

TEST(TokenFileTest, SameDocumentsGiveTheSameBytes) {
  const TemporaryFolder folder;
  const std::string first = ReadFile(SmallFile(folder));
  sleep(1);  // HDF5 keeps times of change in seconds, unless told not to
  EXPECT_EQ(first, ReadFile(SmallFile(folder)));
}

TEST(TokenFileTest, AnyFlippedByteIsFound) {
  const TemporaryFolder folder;
  std::string bytes = ReadFile(SmallFile(folder));
  ASSERT_TRUE(CheckBytes(bytes).ok()) << CheckBytes(bytes);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
    ASSERT_FALSE(CheckBytes(bytes).ok()) << "byte " << i << " of " << bytes.size();
    bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
  }
}

TEST(TokenFileTest, AnyTornTailIsFound) {
  const TemporaryFolder folder;
  const std::string bytes = ReadFile(SmallFile(folder));
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_FALSE(CheckBytes(bytes.substr(0, size)).ok()) << size;
  }
  EXPECT_THAT(CheckBytes(bytes.substr(0, bytes.size() - 1)).ToString(), HasSubstr("cut short"));
  EXPECT_FALSE(CheckBytes(bytes + '\0').ok());
}

TEST(TokenFileTest, DamagedBlockIsNamedAndTheOthersStayReadable) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.tokens";
  const auto intact = MakeTokenFile(path, CountingDocuments(300, 400, 5));
  std::string bytes = ReadFile(path);
  const int32_t victim = 20000;  // an id of block 1: ids count from 1
  const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&victim), 4));
  ASSERT_NE(at, std::string::npos);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  WriteFile(path, bytes);
  const auto reader = TokenFileReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_THAT((*reader)->VerifyAll().ToString(), HasSubstr("tokens block 1 "));
  std::vector<int32_t> block(16384);
  EXPECT_TRUE((*reader)->ReadTokens(0, absl::MakeSpan(block)).ok());
  EXPECT_FALSE((*reader)->ReadTokens(1, absl::MakeSpan(block)).ok());
  EXPECT_TRUE((*reader)->ReadTokens(32768, absl::MakeSpan(block)).ok());
}

TEST(TokenFileTest, WrongMagicIsNamed) {
  const TemporaryFolder folder;
  WriteFile(folder / "text.tokens", std::string(1000, 'x'));
  EXPECT_THAT(TokenFileReader::Open(folder / "text.tokens").status().ToString(),
              HasSubstr("text.tokens: wrong magic"));
  EXPECT_THAT(TokenFileReader::Open(folder / "none.tokens").status().ToString(),
              HasSubstr("No such file"));
  EXPECT_FALSE(TokenFileReader::Open(folder.path()).ok());
}

// Writes a sealed HDF5 file that begins as a token file of that version would.
void WriteSealedFile(const std::string& path, const std::string& format, int64_t version) {
  auto file = Hdf5File::Create(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->SetString("/", "format", format).ok());
  ASSERT_TRUE(file->SetInteger("/", "version", version).ok());
  ASSERT_TRUE(file->Close().ok());
  auto sealed = PlainFile::OpenForWriting(path);
  ASSERT_TRUE(sealed.ok());
  ASSERT_TRUE(SealFile({}, &*sealed).ok());
}

TEST(TokenFileTest, OtherVersionsAndFormatsAreRefused) {
  const TemporaryFolder folder;
  const std::string path = folder / "later.tokens";
  WriteSealedFile(path, "salamander-tokens", 7);
  EXPECT_THAT(TokenFileReader::Open(path).status().ToString(),
              HasSubstr("version 7; expected a token file of version 1"));
  WriteSealedFile(path, "salamander-checkpoint", 1);
  EXPECT_THAT(TokenFileReader::Open(path).status().ToString(),
              HasSubstr("format is \"salamander-checkpoint\""));
  WriteSealedFile(path, "salamander-tokens", 1);
  EXPECT_THAT(TokenFileReader::Open(path).status().ToString(), HasSubstr("vocab_size"));
}

TEST(TokenFileTest, WriterRefusesWhatTheFileCannotHold) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.tokens";
  const auto tokenizer = MakeByteTokenizer();
  auto writer = TokenFileWriter::Create(path, *tokenizer, false);
  ASSERT_TRUE(writer.ok());
  EXPECT_THAT((*writer)->AddDocument({1, 264}, {}).ToString(), HasSubstr("token 1 is id 264"));
  EXPECT_FALSE((*writer)->AddDocument({}, {}).ok());
  EXPECT_FALSE((*writer)->AddDocument({1}, {1}).ok());
  EXPECT_THAT((*writer)->Finish().ToString(), HasSubstr("no documents"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(TokenFileTest, UnfinishedWriterLeavesNothingBehind) {
  const TemporaryFolder folder;
  {
    auto writer = TokenFileWriter::Create(folder / "a.tokens", *MakeByteTokenizer(), true);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->AddDocument(std::vector<int32_t>(100000, 1), {}).ok());
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TokenFileTest, MissingFolderAndPermissionsAreNamed) {
  const TemporaryFolder folder;
  const auto missing =
      TokenFileWriter::Create(folder / "none/a.tokens", *MakeByteTokenizer(), false);
  EXPECT_THAT(missing.status().ToString(), HasSubstr("No such file or directory"));
  // /proc takes no new files, not even from root, whom file modes do not stop.
  const auto refused = TokenFileWriter::Create("/proc/a.tokens", *MakeByteTokenizer(), false);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("/proc: cannot create"));
}

TEST(TokenFileTest, FullDiskIsAnErrorAndTheOldFileStays) {
  const TemporaryFolder folder;
  const std::string path = SmallFile(folder);
  const std::string before = ReadFile(path);
  const auto write_large = [&]() -> absl::Status {
    auto writer = TokenFileWriter::Create(path, *MakeByteTokenizer(), false);
    if (!writer.ok()) return writer.status();
    for (int i = 0; i < 10; ++i) {
      const absl::Status added = (*writer)->AddDocument(std::vector<int32_t>(100000, 1), {});
      if (!added.ok()) return added;
    }
    return (*writer)->Finish();
  };
  // A limit on the size of files stands in for the full disk: both fail a write.
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit = {};
  getrlimit(RLIMIT_FSIZE, &old_limit);
  const rlimit small = {.rlim_cur = 1 << 20, .rlim_max = old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = write_large();
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(ReadFile(path), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace salamander
