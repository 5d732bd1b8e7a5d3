// Token files: documents as ids, ready to be packed. HDF5 (h5dump and h5py read them), written
// once, complete or absent, checksummed throughout. Layout: docs/formats/token-file.md.
//
// Writer and reader hold the document boundaries in memory, eight bytes for each document, and
// one block of tokens. While a file is written its tokens wait in an unnamed file in the target's
// folder until their number is known: writing needs free space for the data twice. The reader
// reads the tokens it is asked for.
#ifndef DATA_TOKENS_TOKEN_FILE_H_
#define DATA_TOKENS_TOKEN_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "data/text/tokenizer.h"

namespace salamander {

inline constexpr int64_t kTokenFileVersion = 1;

struct TokenFileInfo {
  int64_t token_count = 0;
  int64_t document_count = 0;
  int64_t vocab_size = 0;
  int32_t eos_id = -1;
  int bytes_per_token = 0;  // 2 where every id of the vocabulary fits, else 4
  bool has_loss_mask = false;
  std::string tokenizer_fingerprint;
};

class TokenFileWriter {
 public:
  // Nothing appears at `path` before Finish. Keeps a reference to nothing: the tokenizer's
  // serialized form goes into the file.
  static absl::StatusOr<std::unique_ptr<TokenFileWriter>> Create(const std::string& path,
                                                                 const Tokenizer& tokenizer,
                                                                 bool has_loss_mask);
  ~TokenFileWriter();

  // Appends one document. `loss_mask` has one 0 or 1 for each token, or is empty: every token is
  // learnt. A mask in a file without masks, an empty document and an id outside the vocabulary
  // are errors, and leave what was written before as it was.
  absl::Status AddDocument(absl::Span<const int32_t> ids, absl::Span<const uint8_t> loss_mask);

  // Publishes the file under its name, replacing a file that is there. Requires: called once.
  absl::Status Finish();

  int64_t token_count() const;
  int64_t document_count() const;

 private:
  struct State;
  explicit TokenFileWriter(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

// Immutable after Open, and thread-safe: reads share no position.
class TokenFileReader {
 public:
  // Checks the closing record, the file's size and everything but the tokens and masks.
  static absl::StatusOr<std::unique_ptr<TokenFileReader>> Open(const std::string& path);
  ~TokenFileReader();

  const std::string& path() const;
  const TokenFileInfo& info() const;

  // Document d is tokens [offsets[d], offsets[d + 1]). [documents + 1]
  absl::Span<const int64_t> document_offsets() const;

  // The tokenizer the file was made with, as DeserializeTokenizer takes it.
  const std::string& serialized_tokenizer() const;

  // Reads out.size() tokens from `begin` on. Each block a read touches is checked against its
  // checksum; a bad one is named. Requires: the range lies inside the file.
  absl::Status ReadTokens(int64_t begin, absl::Span<int32_t> out) const;

  // Reads the mask as weights 0 and 1; 1 throughout where the file has no mask.
  absl::Status ReadLossMask(int64_t begin, absl::Span<float> out) const;

  // Reads every block and checks it.
  absl::Status VerifyAll() const;

 private:
  struct State;
  explicit TokenFileReader(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

// Opens the bytes as a token file, by way of a temporary file, and verifies all of it. Whatever the
// bytes are, the answer is a status: this is what the fuzzer drives.
absl::Status CheckTokenFileBytes(absl::Span<const uint8_t> bytes);

}  // namespace salamander

#endif  // DATA_TOKENS_TOKEN_FILE_H_
