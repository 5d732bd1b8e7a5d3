#include "data/tokens/token_file_layout.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/storage/hdf5_file.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr char kFormat[] = "salamander-tokens";
constexpr int64_t kCopiedEntries = 1 << 20;

absl::Status LayoutError(const std::string& path, absl::string_view found) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", found, "; expected a token file of version ", kTokenFileVersion,
                   " (docs/formats/token-file.md); make it again with `salamander tokenize`"));
}

StoredType TokenType(const TokenFileInfo& info) {
  return info.bytes_per_token == 2 ? StoredType::kUint16 : StoredType::kUint32;
}

absl::Status WriteDataset(const char* name, StoredType type, int64_t count, const void* entries,
                          Hdf5File* file) {
  ASSIGN_OR_RETURN(Hdf5Dataset dataset, file->CreateDataset(name, type, {count}));
  return dataset.Write(type, 0, count, entries);
}

absl::StatusOr<ByteRange> PlaceOf(const Hdf5Dataset& dataset) {
  ASSIGN_OR_RETURN(const int64_t begin, dataset.FileOffset());
  return ByteRange{.begin = begin, .end = begin + dataset.rows() * SizeOf(dataset.type())};
}

absl::StatusOr<ByteRange> CopyDataset(const char* name, StoredType type, int64_t count,
                                      const ReadEntries& read, Hdf5File* file) {
  ASSIGN_OR_RETURN(Hdf5Dataset dataset, file->CreateDataset(name, type, {count}));
  std::vector<char> buffer(static_cast<size_t>(std::min(count, kCopiedEntries) * SizeOf(type)));
  for (int64_t begin = 0; begin < count; begin += kCopiedEntries) {
    const int64_t part = std::min(kCopiedEntries, count - begin);
    RETURN_IF_ERROR(read(begin, part, buffer.data()));
    RETURN_IF_ERROR(dataset.Write(type, begin, part, buffer.data()));
  }
  return PlaceOf(dataset);
}

absl::Status WriteAttributes(const TokenFileInfo& info, Hdf5File* file) {
  RETURN_IF_ERROR(file->SetString("/", "format", kFormat));
  RETURN_IF_ERROR(file->SetInteger("/", "version", kTokenFileVersion));
  RETURN_IF_ERROR(file->SetInteger("/", "vocab_size", info.vocab_size));
  RETURN_IF_ERROR(file->SetInteger("/", "eos_id", info.eos_id));
  RETURN_IF_ERROR(file->SetInteger("/", "checksum_block_tokens", kChecksumBlockTokens));
  return file->SetString("/", "tokenizer_fingerprint", info.tokenizer_fingerprint);
}

absl::Status ReadAttributes(const Hdf5File& file, TokenFileInfo* info) {
  const auto format = file.GetString("/", "format");
  if (!format.ok()) return LayoutError(file.path(), "an HDF5 file of another kind");
  if (*format != kFormat) {
    return LayoutError(file.path(), absl::StrCat("the file's format is \"", *format, "\""));
  }
  ASSIGN_OR_RETURN(const int64_t version, file.GetInteger("/", "version"));
  if (version != kTokenFileVersion) {
    return LayoutError(file.path(), absl::StrCat("the file's format has version ", version));
  }
  ASSIGN_OR_RETURN(info->vocab_size, file.GetInteger("/", "vocab_size"));
  ASSIGN_OR_RETURN(const int64_t eos_id, file.GetInteger("/", "eos_id"));
  ASSIGN_OR_RETURN(const int64_t block, file.GetInteger("/", "checksum_block_tokens"));
  ASSIGN_OR_RETURN(info->tokenizer_fingerprint, file.GetString("/", "tokenizer_fingerprint"));
  if (info->vocab_size < 1 || info->vocab_size > std::numeric_limits<int32_t>::max() ||
      eos_id < -1 || eos_id >= info->vocab_size || block != kChecksumBlockTokens) {
    return LayoutError(file.path(),
                       absl::StrCat("vocab_size ", info->vocab_size, ", eos_id ", eos_id,
                                    " and checksum_block_tokens ", block, " are impossible"));
  }
  info->eos_id = static_cast<int32_t>(eos_id);
  info->bytes_per_token = BytesPerToken(info->vocab_size);
  return absl::OkStatus();
}

// A dataset whose type, rank and place in the file are what they should be.
absl::StatusOr<Hdf5Dataset> OpenChecked(const Hdf5File& file, const char* name, StoredType type,
                                        int64_t file_size) {
  ASSIGN_OR_RETURN(Hdf5Dataset dataset, file.OpenDataset(name));
  if (dataset.type() != type || dataset.dims().size() != 1 || dataset.rows() < 1) {
    return LayoutError(file.path(), absl::StrCat("dataset ", name, " holds ", Name(dataset.type()),
                                                 " in ", dataset.dims().size(),
                                                 " dimensions, not a list of ", Name(type)));
  }
  ASSIGN_OR_RETURN(const int64_t begin, dataset.FileOffset());
  if (begin < 0 || begin > file_size || dataset.rows() > (file_size - begin) / SizeOf(type)) {
    return LayoutError(file.path(), absl::StrCat("dataset ", name, " of ", dataset.rows(),
                                                 " entries does not lie inside the file of ",
                                                 file_size, " bytes"));
  }
  return dataset;
}

template <typename Container>
absl::Status ReadDataset(const Hdf5File& file, const char* name, StoredType type, int64_t file_size,
                         Container* out) {
  ASSIGN_OR_RETURN(const Hdf5Dataset dataset, OpenChecked(file, name, type, file_size));
  out->resize(static_cast<size_t>(dataset.rows()));
  return dataset.Read(type, 0, dataset.rows(), out->data());
}

absl::Status ReadMask(const Hdf5File& file, int64_t file_size, TokenFileLayout* layout) {
  layout->info.has_loss_mask = file.HasObject("/loss_mask");
  if (!layout->info.has_loss_mask) return absl::OkStatus();
  RETURN_IF_ERROR(ReadDataset(file, "/loss_mask_checksums", StoredType::kUint64, file_size,
                              &layout->loss_mask_checksums));
  ASSIGN_OR_RETURN(const Hdf5Dataset mask,
                   OpenChecked(file, "/loss_mask", StoredType::kUint8, file_size));
  if (mask.rows() != layout->info.token_count) {
    return LayoutError(file.path(), absl::StrCat("loss_mask has ", mask.rows(), " entries for ",
                                                 layout->info.token_count, " tokens"));
  }
  ASSIGN_OR_RETURN(layout->loss_mask, PlaceOf(mask));
  return absl::OkStatus();
}

absl::Status CheckConsistent(const std::string& path, const TokenFileLayout& layout) {
  const std::vector<int64_t>& offsets = layout.document_offsets;
  bool is_ascending =
      offsets.size() >= 2 && offsets.front() == 0 && offsets.back() == layout.info.token_count;
  for (size_t d = 0; is_ascending && d + 1 < offsets.size(); ++d) {
    is_ascending = offsets[d] < offsets[d + 1];
  }
  if (!is_ascending) {
    return LayoutError(path, absl::StrCat("document_offsets does not rise from 0 to the ",
                                          layout.info.token_count, " tokens"));
  }
  const auto blocks = static_cast<size_t>(ChecksumBlocks(layout.info.token_count));
  if (layout.token_checksums.size() != blocks ||
      (layout.info.has_loss_mask && layout.loss_mask_checksums.size() != blocks)) {
    return LayoutError(path,
                       absl::StrCat("the number of checksums is not that of blocks, ", blocks));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteLayout(const std::string& path, const ReadEntries& tokens,
                         const ReadEntries& loss_mask, TokenFileLayout* layout) {
  ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path));
  const TokenFileInfo& info = layout->info;
  RETURN_IF_ERROR(WriteAttributes(info, &file));
  RETURN_IF_ERROR(WriteDataset("/tokenizer", StoredType::kUint8,
                               static_cast<int64_t>(layout->serialized_tokenizer.size()),
                               layout->serialized_tokenizer.data(), &file));
  RETURN_IF_ERROR(WriteDataset("/document_offsets", StoredType::kInt64, info.document_count + 1,
                               layout->document_offsets.data(), &file));
  const int64_t blocks = ChecksumBlocks(info.token_count);
  RETURN_IF_ERROR(WriteDataset("/token_checksums", StoredType::kUint64, blocks,
                               layout->token_checksums.data(), &file));
  ASSIGN_OR_RETURN(layout->tokens,
                   CopyDataset("/tokens", TokenType(info), info.token_count, tokens, &file));
  if (info.has_loss_mask) {
    RETURN_IF_ERROR(WriteDataset("/loss_mask_checksums", StoredType::kUint64, blocks,
                                 layout->loss_mask_checksums.data(), &file));
    ASSIGN_OR_RETURN(layout->loss_mask, CopyDataset("/loss_mask", StoredType::kUint8,
                                                    info.token_count, loss_mask, &file));
  }
  return file.Close();
}

absl::StatusOr<TokenFileLayout> ReadLayout(const std::string& path, int64_t file_size) {
  ASSIGN_OR_RETURN(const Hdf5File file, Hdf5File::OpenForReading(path));
  TokenFileLayout layout;
  RETURN_IF_ERROR(ReadAttributes(file, &layout.info));
  RETURN_IF_ERROR(
      ReadDataset(file, "/tokenizer", StoredType::kUint8, file_size, &layout.serialized_tokenizer));
  RETURN_IF_ERROR(ReadDataset(file, "/document_offsets", StoredType::kInt64, file_size,
                              &layout.document_offsets));
  RETURN_IF_ERROR(ReadDataset(file, "/token_checksums", StoredType::kUint64, file_size,
                              &layout.token_checksums));
  ASSIGN_OR_RETURN(const Hdf5Dataset tokens,
                   OpenChecked(file, "/tokens", TokenType(layout.info), file_size));
  ASSIGN_OR_RETURN(layout.tokens, PlaceOf(tokens));
  layout.info.token_count = tokens.rows();
  layout.info.document_count = static_cast<int64_t>(layout.document_offsets.size()) - 1;
  RETURN_IF_ERROR(ReadMask(file, file_size, &layout));
  RETURN_IF_ERROR(CheckConsistent(path, layout));
  return layout;
}

}  // namespace salamander
