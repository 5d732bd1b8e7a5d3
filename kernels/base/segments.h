// Which rows of a packed stream belong together. A segment is one document, or the piece of one
// that this rank or this call holds. One struct covers training (keys are the queries), context
// slices and chunked prefill (keys reach back before the first query) and batched decoding (one
// query, keys in a cache). Of a context slice, queries are rows of the slice and keys are rows of
// the whole stream, whose keys are gathered.
#ifndef KERNELS_BASE_SEGMENTS_H_
#define KERNELS_BASE_SEGMENTS_H_

#include <algorithm>
#include <cstdint>

#include "absl/types/span.h"

namespace salamander {

struct Segment {
  int64_t query_begin = 0;     // first row in the query tensors
  int64_t query_count = 0;     // >= 1
  int64_t key_begin = 0;       // row of the document's position 0 in the key and value tensors
  int64_t first_position = 0;  // position in the document of the first query
  int32_t state_in = -1;       // recurrent state slot the segment starts from; -1 starts from zero
  int32_t state_out = -1;      // slot that receives the state after the last query; -1 drops it

  // Positions of the whole document, where it goes on behind the last query on another rank; 0: it
  // ends with the segment.
  int64_t whole_count = 0;

  // Keys visible to the last query: positions [0, key_count).
  int64_t key_count() const { return first_position + query_count; }

  // Tokens of the document, whoever holds them: what rules by a document's length go by.
  int64_t document_length() const { return std::max(whole_count, key_count()); }
};

using Segments = absl::Span<const Segment>;

}  // namespace salamander

#endif  // KERNELS_BASE_SEGMENTS_H_
