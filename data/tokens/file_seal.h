// A closing record of 72 bytes at the end of an HDF5 file (which ignores what follows it). It says
// how long the file is and carries a digest of everything but the bulk, so that a reader knows,
// before HDF5 sees a byte, that the file is whole and is what was written. The bulk (the ranges
// the record excepts) has checksums of its own, checked as it is read. Little-endian:
//
//   0   8 bytes  "SALSEAL1"
//   8   uint64   size of the file with this record
//   16  uint64   begin and end of the first bulk range, then of the second (equal: none);
//                ascending, without overlap
//   48  uint64   number of bytes digested: the file's size less this record and the bulk
//   56  uint64   XXH3-64 of those bytes, in order
//   64  uint64   XXH3-64 of bytes 0 to 63 of this record
#ifndef DATA_TOKENS_FILE_SEAL_H_
#define DATA_TOKENS_FILE_SEAL_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"

#include "data/tokens/plain_file.h"

namespace salamander {

struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;
};
using BulkRanges = std::array<ByteRange, 2>;

// Appends the record. Requires: bulk lies inside the file, ascending.
absl::Status SealFile(const BulkRanges& bulk, PlainFile* file);

// Checks the file against its record. Errors tell a file of another kind from one that was cut
// short and from one with a damaged byte.
absl::Status CheckSeal(const PlainFile& file);

}  // namespace salamander

#endif  // DATA_TOKENS_FILE_SEAL_H_
