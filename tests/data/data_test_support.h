// What the data tests share: a folder that vanishes, token files with known contents.
#ifndef TESTS_DATA_DATA_TEST_SUPPORT_H_
#define TESTS_DATA_DATA_TEST_SUPPORT_H_

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "data/random.h"
#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"

namespace salamander {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "salamander-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void WriteFile(const std::string& path, const std::string& bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

using Documents = std::vector<std::vector<int32_t>>;

// Documents of 1 to longest tokens. Every token of the corpus is its own id, counted from
// first_id, so that a token says where it comes from.
inline Documents CountingDocuments(int64_t count, int64_t longest, uint64_t seed,
                                   int32_t first_id = 1) {
  CounterRandom random(seed);
  Documents documents(count);
  for (auto& document : documents) {
    document.resize(1 + random.Below(longest));
    for (int32_t& id : document) id = first_id++;
  }
  return documents;
}

inline std::shared_ptr<const TokenFileReader> MakeTokenFile(const std::string& path,
                                                            const Documents& documents,
                                                            int64_t vocab_size = 1 << 20) {
  const auto tokenizer = MakeIdTokenizer(vocab_size, -1, 0);
  auto writer = TokenFileWriter::Create(path, **tokenizer, false);
  EXPECT_TRUE(writer.ok()) << writer.status();
  for (const auto& document : documents) {
    EXPECT_TRUE((*writer)->AddDocument(document, {}).ok());
  }
  const absl::Status finished = (*writer)->Finish();
  EXPECT_TRUE(finished.ok()) << finished;
  auto reader = TokenFileReader::Open(path);
  EXPECT_TRUE(reader.ok()) << reader.status();
  return *std::move(reader);
}

}  // namespace salamander

#endif  // TESTS_DATA_DATA_TEST_SUPPORT_H_
