#include "data/tokens/file_seal.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

#include "data/storage/checksum.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'S', 'A', 'L', 'S', 'E', 'A', 'L', '1'};
constexpr char kHdf5Magic[8] = {'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};
constexpr int64_t kDigestBlock = 1 << 20;

struct Record {
  char magic[8];
  uint64_t file_size;
  uint64_t bulk[4];
  uint64_t digested_bytes;
  uint64_t digest;
  uint64_t record_digest;
};
static_assert(sizeof(Record) == 72);
constexpr auto kRecordSize = static_cast<int64_t>(sizeof(Record));

uint64_t RecordDigest(const Record& record) {
  return ChecksumOf(&record, offsetof(Record, record_digest));
}

// Fills in digested_bytes and digest for the first `content_size` bytes of the file.
absl::Status Digest(const PlainFile& file, int64_t content_size, Record* record) {
  Checksum checksum;
  std::vector<char> buffer(std::min(kDigestBlock, content_size));
  const int64_t begins[] = {0, static_cast<int64_t>(record->bulk[1]),
                            static_cast<int64_t>(record->bulk[3])};
  const int64_t ends[] = {static_cast<int64_t>(record->bulk[0]),
                          static_cast<int64_t>(record->bulk[2]), content_size};
  record->digested_bytes = 0;
  for (int range = 0; range < 3; ++range) {
    for (int64_t at = begins[range]; at < ends[range];) {
      const int64_t count = std::min(kDigestBlock, ends[range] - at);
      RETURN_IF_ERROR(file.ReadAt(at, buffer.data(), count));
      checksum.Update(buffer.data(), static_cast<size_t>(count));
      record->digested_bytes += static_cast<uint64_t>(count);
      at += count;
    }
  }
  record->digest = checksum.digest();
  return absl::OkStatus();
}

bool BulkIsAscending(const Record& record, int64_t content_size) {
  return record.bulk[0] <= record.bulk[1] && record.bulk[1] <= record.bulk[2] &&
         record.bulk[2] <= record.bulk[3] && record.bulk[3] <= static_cast<uint64_t>(content_size);
}

}  // namespace

absl::Status SealFile(const BulkRanges& bulk, PlainFile* file) {
  ASSIGN_OR_RETURN(const int64_t content_size, file->Size());
  Record record = {};
  std::memcpy(record.magic, kMagic, sizeof(kMagic));
  record.file_size = static_cast<uint64_t>(content_size + kRecordSize);
  for (int i = 0; i < 2; ++i) {
    record.bulk[2 * i] = static_cast<uint64_t>(bulk[i].begin);
    record.bulk[2 * i + 1] = static_cast<uint64_t>(bulk[i].end);
  }
  SALAMANDER_CHECK(BulkIsAscending(record, content_size));
  RETURN_IF_ERROR(Digest(*file, content_size, &record));
  record.record_digest = RecordDigest(record);
  return file->WriteAt(content_size, &record, kRecordSize);
}

absl::Status CheckSeal(const PlainFile& file) {
  ASSIGN_OR_RETURN(const int64_t size, file.Size());
  char head[sizeof(kHdf5Magic)] = {};
  RETURN_IF_ERROR(
      file.ReadAt(0, head, std::min<int64_t>(size, static_cast<int64_t>(sizeof(head)))));
  if (std::memcmp(head, kHdf5Magic, sizeof(head)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": wrong magic: the file does not begin as HDF5 does (", size,
                     " bytes); expected a file that salamander wrote"));
  }
  Record record = {};
  if (size >= kRecordSize) RETURN_IF_ERROR(file.ReadAt(size - kRecordSize, &record, kRecordSize));
  if (std::memcmp(record.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": no closing record in the last ", kRecordSize, " of ", size,
                     " bytes: the file was cut short, or another program wrote it; copy or make "
                     "it again"));
  }
  if (record.record_digest != RecordDigest(record)) {
    return absl::DataLossError(absl::StrCat(file.path(), ": the closing record at byte ",
                                            size - kRecordSize,
                                            " is damaged; copy or make the file again"));
  }
  const int64_t content_size = size - kRecordSize;
  if (record.file_size != static_cast<uint64_t>(size) || !BulkIsAscending(record, content_size)) {
    return absl::DataLossError(absl::StrCat(file.path(), ": has ", size, " bytes; its closing ",
                                            "record says ", record.file_size,
                                            "; copy or make the file again"));
  }
  Record found = record;
  RETURN_IF_ERROR(Digest(file, content_size, &found));
  if (found.digest != record.digest || found.digested_bytes != record.digested_bytes) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": a byte outside the tokens is damaged: the digest of ",
                     found.digested_bytes, " bytes does not match; copy or make the file again"));
  }
  return absl::OkStatus();
}

}  // namespace salamander
