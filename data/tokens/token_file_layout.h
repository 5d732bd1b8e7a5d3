// What lies in a token file (docs/formats/token-file.md): the one place that knows its HDF5 names.
// Datasets are contiguous, so that readers find tokens and masks by their position in the file.
#ifndef DATA_TOKENS_TOKEN_FILE_LAYOUT_H_
#define DATA_TOKENS_TOKEN_FILE_LAYOUT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "data/tokens/file_seal.h"
#include "data/tokens/token_file.h"

namespace salamander {

// Tokens under one checksum: 32 KiB of 16-bit ids, so that reading one short document costs
// little more than itself.
inline constexpr int64_t kChecksumBlockTokens = 16384;

inline int64_t ChecksumBlocks(int64_t tokens) {
  return (tokens + kChecksumBlockTokens - 1) / kChecksumBlockTokens;
}

inline int BytesPerToken(int64_t vocab_size) {
  return vocab_size <= 65536 ? 2 : 4;
}

struct TokenFileLayout {
  TokenFileInfo info;
  std::string serialized_tokenizer;
  std::vector<int64_t> document_offsets;      // [documents + 1]
  std::vector<uint64_t> token_checksums;      // [blocks]
  std::vector<uint64_t> loss_mask_checksums;  // [blocks], or empty
  ByteRange tokens;                           // where the bytes lie in the file
  ByteRange loss_mask;                        // empty where there is no mask
};

// Hands over entries [begin, begin + count) of the tokens or of the mask, as they are stored.
using ReadEntries = std::function<absl::Status(int64_t begin, int64_t count, void* entries)>;

// Writes a whole HDF5 file but for its seal, and fills in where tokens and mask lie.
absl::Status WriteLayout(const std::string& path, const ReadEntries& tokens,
                         const ReadEntries& loss_mask, TokenFileLayout* layout);

// Reads and validates everything but tokens and masks. Requires: the seal was checked.
absl::StatusOr<TokenFileLayout> ReadLayout(const std::string& path, int64_t file_size);

}  // namespace salamander

#endif  // DATA_TOKENS_TOKEN_FILE_LAYOUT_H_
