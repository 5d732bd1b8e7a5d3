#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "data/storage/checksum.h"
#include "data/storage/file_bytes.h"
#include "data/tokens/file_seal.h"
#include "data/tokens/plain_file.h"
#include "data/tokens/token_file.h"
#include "data/tokens/token_file_layout.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"

namespace salamander {

struct TokenFileReader::State {
  State(PlainFile opened, TokenFileLayout read)
      : file(std::move(opened)), layout(std::move(read)) {}

  // Reads the blocks that hold entries [begin, begin + count) of a bulk dataset, checks each, and
  // hands its entries to `take(first entry, entries, bytes)`.
  template <typename Take>
  absl::Status ReadBlocks(bool is_mask, int64_t begin, int64_t count, const Take& take) const;

  PlainFile file;
  TokenFileLayout layout;
};

template <typename Take>
absl::Status TokenFileReader::State::ReadBlocks(bool is_mask, int64_t begin, int64_t count,
                                                const Take& take) const {
  const ByteRange& place = is_mask ? layout.loss_mask : layout.tokens;
  const auto& checksums = is_mask ? layout.loss_mask_checksums : layout.token_checksums;
  const int64_t width = is_mask ? 1 : layout.info.bytes_per_token;
  const int64_t end = begin + count;
  SALAMANDER_CHECK(begin >= 0 && count >= 0 && end <= layout.info.token_count)
      << begin << " to " << end << " of " << layout.info.token_count;
  if (count == 0) return absl::OkStatus();
  std::vector<char> bytes;
  for (int64_t block = begin / kChecksumBlockTokens; block * kChecksumBlockTokens < end; ++block) {
    const int64_t block_begin = block * kChecksumBlockTokens;
    const int64_t block_end = std::min(block_begin + kChecksumBlockTokens, layout.info.token_count);
    bytes.resize(static_cast<size_t>((block_end - block_begin) * width));
    RETURN_IF_ERROR(file.ReadAt(place.begin + block_begin * width, bytes.data(),
                                static_cast<int64_t>(bytes.size())));
    if (ChecksumOf(bytes.data(), bytes.size()) != checksums[block]) {
      return absl::DataLossError(absl::StrCat(
          file.path(), ": ", is_mask ? "loss_mask" : "tokens", " block ", block, " (entries ",
          block_begin, " to ", block_end - 1, ", bytes from ", place.begin + block_begin * width,
          ") is damaged: its checksum does not match; copy or make the file again"));
    }
    const int64_t first = std::max(begin, block_begin);
    take(first, std::min(end, block_end) - first, bytes.data() + (first - block_begin) * width);
  }
  return absl::OkStatus();
}

TokenFileReader::TokenFileReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
TokenFileReader::~TokenFileReader() = default;

absl::StatusOr<std::unique_ptr<TokenFileReader>> TokenFileReader::Open(const std::string& path) {
  ASSIGN_OR_RETURN(PlainFile file, PlainFile::OpenForReading(path));
  RETURN_IF_ERROR(CheckSeal(file));
  ASSIGN_OR_RETURN(const int64_t size, file.Size());
  ASSIGN_OR_RETURN(TokenFileLayout layout, ReadLayout(path, size));
  return std::unique_ptr<TokenFileReader>(
      new TokenFileReader(std::make_unique<State>(std::move(file), std::move(layout))));
}

const std::string& TokenFileReader::path() const {
  return state_->file.path();
}
const TokenFileInfo& TokenFileReader::info() const {
  return state_->layout.info;
}
const std::string& TokenFileReader::serialized_tokenizer() const {
  return state_->layout.serialized_tokenizer;
}
absl::Span<const int64_t> TokenFileReader::document_offsets() const {
  return state_->layout.document_offsets;
}

absl::Status TokenFileReader::ReadTokens(int64_t begin, absl::Span<int32_t> out) const {
  const bool is_narrow = info().bytes_per_token == 2;
  const auto take = [&](int64_t first, int64_t count, const char* bytes) {
    int32_t* target = out.data() + (first - begin);
    if (!is_narrow) {
      std::memcpy(target, bytes, static_cast<size_t>(4 * count));
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      uint16_t id = 0;
      std::memcpy(&id, bytes + 2 * i, sizeof(id));
      target[i] = id;
    }
  };
  return state_->ReadBlocks(false, begin, static_cast<int64_t>(out.size()), take);
}

absl::Status TokenFileReader::ReadLossMask(int64_t begin, absl::Span<float> out) const {
  if (!info().has_loss_mask) {
    std::fill(out.begin(), out.end(), 1.0f);
    return absl::OkStatus();
  }
  const auto take = [&](int64_t first, int64_t count, const char* bytes) {
    for (int64_t i = 0; i < count; ++i) out[first - begin + i] = bytes[i] != 0 ? 1.0f : 0.0f;
  };
  return state_->ReadBlocks(true, begin, static_cast<int64_t>(out.size()), take);
}

absl::Status TokenFileReader::VerifyAll() const {
  const auto ignore = [](int64_t, int64_t, const char*) {};
  RETURN_IF_ERROR(state_->ReadBlocks(false, 0, info().token_count, ignore));
  if (!info().has_loss_mask) return absl::OkStatus();
  return state_->ReadBlocks(true, 0, info().token_count, ignore);
}

absl::Status CheckTokenFileBytes(absl::Span<const uint8_t> bytes) {
  // HDF5 wants a file with a name.
  std::string path = (std::filesystem::temp_directory_path() / "token-file-XXXXXX").string();
  const int descriptor = mkostemp(path.data(), O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "create a temporary file", path);
  close(descriptor);
  const auto check = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(PlainFile file, PlainFile::OpenForWriting(path));
    RETURN_IF_ERROR(file.WriteAt(0, bytes.data(), static_cast<int64_t>(bytes.size())));
    ASSIGN_OR_RETURN(const auto reader, TokenFileReader::Open(path));
    return reader->VerifyAll();
  };
  const absl::Status status = check();
  std::remove(path.c_str());
  return status;
}

}  // namespace salamander
