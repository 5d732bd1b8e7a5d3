#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/storage/atomic_path.h"
#include "data/storage/checksum.h"
#include "data/tokens/plain_file.h"
#include "data/tokens/token_file.h"
#include "data/tokens/token_file_layout.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// Bytes that arrive in any portions, written and checksummed in blocks.
class BlockSpill {
 public:
  BlockSpill(PlainFile file, int64_t block_bytes)
      : file_(std::move(file)), block_bytes_(block_bytes) {
    block_.reserve(static_cast<size_t>(block_bytes));
  }

  absl::Status Append(const void* bytes, int64_t count) {
    const auto* in = static_cast<const char*>(bytes);
    while (count > 0) {
      const int64_t part = std::min(count, block_bytes_ - static_cast<int64_t>(block_.size()));
      block_.insert(block_.end(), in, in + part);
      in += part;
      count -= part;
      if (static_cast<int64_t>(block_.size()) == block_bytes_) RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (block_.empty()) return absl::OkStatus();
    const auto count = static_cast<int64_t>(block_.size());
    checksums_.push_back(ChecksumOf(block_.data(), block_.size()));
    RETURN_IF_ERROR(file_.WriteAt(size_, block_.data(), count));
    size_ += count;
    block_.clear();
    return absl::OkStatus();
  }

  // Bytes that were flushed.
  absl::Status ReadAt(int64_t position, void* bytes, int64_t count) const {
    return file_.ReadAt(position, bytes, count);
  }

  const std::vector<uint64_t>& checksums() const { return checksums_; }

 private:
  PlainFile file_;
  const int64_t block_bytes_;
  std::vector<char> block_;
  std::vector<uint64_t> checksums_;
  int64_t size_ = 0;  // flushed bytes
};

}  // namespace

struct TokenFileWriter::State {
  absl::Status WriteWhole(const std::string& temporary);

  std::string path;
  TokenFileLayout layout;
  std::optional<BlockSpill> tokens;
  std::optional<BlockSpill> loss_mask;
};

absl::StatusOr<std::unique_ptr<TokenFileWriter>> TokenFileWriter::Create(const std::string& path,
                                                                         const Tokenizer& tokenizer,
                                                                         bool has_loss_mask) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->layout.serialized_tokenizer = tokenizer.Serialized();
  state->layout.document_offsets = {0};
  TokenFileInfo& info = state->layout.info;
  info.vocab_size = tokenizer.vocab_size();
  info.eos_id = tokenizer.eos_id();
  info.bytes_per_token = BytesPerToken(info.vocab_size);
  info.has_loss_mask = has_loss_mask;
  info.tokenizer_fingerprint = tokenizer.Fingerprint();
  ASSIGN_OR_RETURN(PlainFile tokens, PlainFile::CreateUnnamed(path));
  state->tokens.emplace(std::move(tokens), kChecksumBlockTokens * info.bytes_per_token);
  if (has_loss_mask) {
    ASSIGN_OR_RETURN(PlainFile mask, PlainFile::CreateUnnamed(path));
    state->loss_mask.emplace(std::move(mask), kChecksumBlockTokens);
  }
  return std::unique_ptr<TokenFileWriter>(new TokenFileWriter(std::move(state)));
}

TokenFileWriter::TokenFileWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
TokenFileWriter::~TokenFileWriter() = default;

int64_t TokenFileWriter::token_count() const {
  return state_->layout.document_offsets.back();
}
int64_t TokenFileWriter::document_count() const {
  return static_cast<int64_t>(state_->layout.document_offsets.size()) - 1;
}

absl::Status TokenFileWriter::AddDocument(absl::Span<const int32_t> ids,
                                          absl::Span<const uint8_t> loss_mask) {
  const TokenFileInfo& info = state_->layout.info;
  if (ids.empty()) return absl::InvalidArgumentError("a document without tokens");
  if (!loss_mask.empty() && (!info.has_loss_mask || loss_mask.size() != ids.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("a loss mask of ", loss_mask.size(), " entries for ", ids.size(), " tokens",
                     info.has_loss_mask ? "" : " in a token file made without loss masks"));
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < info.vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "token ", i, " is id ", ids[i], "; the vocabulary has ids 0 to ", info.vocab_size - 1));
  }
  if (info.bytes_per_token == 2) {
    const std::vector<uint16_t> narrow(ids.begin(), ids.end());
    RETURN_IF_ERROR(state_->tokens->Append(narrow.data(), 2 * static_cast<int64_t>(ids.size())));
  } else {
    RETURN_IF_ERROR(state_->tokens->Append(ids.data(), 4 * static_cast<int64_t>(ids.size())));
  }
  if (info.has_loss_mask) {
    std::vector<uint8_t> mask(ids.size(), 1);
    for (size_t i = 0; i < loss_mask.size(); ++i) mask[i] = loss_mask[i] != 0 ? 1 : 0;
    RETURN_IF_ERROR(state_->loss_mask->Append(mask.data(), static_cast<int64_t>(mask.size())));
  }
  state_->layout.document_offsets.push_back(token_count() + static_cast<int64_t>(ids.size()));
  return absl::OkStatus();
}

absl::Status TokenFileWriter::Finish() {
  TokenFileLayout& layout = state_->layout;
  if (document_count() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(state_->path, ": no documents to write; the input has no text"));
  }
  RETURN_IF_ERROR(state_->tokens->Flush());
  layout.token_checksums = state_->tokens->checksums();
  layout.info.token_count = token_count();
  layout.info.document_count = document_count();
  if (state_->loss_mask.has_value()) {
    RETURN_IF_ERROR(state_->loss_mask->Flush());
    layout.loss_mask_checksums = state_->loss_mask->checksums();
  }
  ASSIGN_OR_RETURN(AtomicFile target, AtomicFile::Begin(state_->path));
  RETURN_IF_ERROR(WithFinalName(state_->WriteWhole(target.temporary_path()),
                                target.temporary_path(), state_->path));
  return target.Commit();
}

absl::Status TokenFileWriter::State::WriteWhole(const std::string& temporary) {
  const int64_t width = layout.info.bytes_per_token;
  const auto read_tokens = [&](int64_t begin, int64_t count, void* entries) {
    return tokens->ReadAt(begin * width, entries, count * width);
  };
  const auto read_mask = [&](int64_t begin, int64_t count, void* entries) {
    return loss_mask->ReadAt(begin, entries, count);
  };
  RETURN_IF_ERROR(WriteLayout(temporary, read_tokens, read_mask, &layout));
  ByteRange last = layout.loss_mask;
  if (!loss_mask.has_value()) last = {.begin = layout.tokens.end, .end = layout.tokens.end};
  ASSIGN_OR_RETURN(PlainFile file, PlainFile::OpenForWriting(temporary));
  return SealFile({layout.tokens, last}, &file);
}

}  // namespace salamander
