// A context-parallel rank's part of a micro-batch: equal contiguous slices of the stream, in the
// order of ranks. Tokens, targets and loss weights go with their rows. A document that crosses into
// other slices becomes a piece in each:
//   query_begin, query_count   its rows in the slice
//   key_begin                  the document's first row in the whole stream: where the gathered
//                              keys of all slices have it
//   first_position             what lies on earlier ranks
//   whole_count                the document's length
// and the slice knows of each whether it has targets: its last rows alone could pass for padding.
#ifndef DATA_SEQUENCES_CONTEXT_SLICE_H_
#define DATA_SEQUENCES_CONTEXT_SLICE_H_

#include "data/sequences/packed_stream.h"

namespace salamander {

// Requires: `ranks` divides the stream's size; 0 <= rank < ranks.
PackedStream SliceOf(const PackedStream& stream, int rank, int ranks);

}  // namespace salamander

#endif  // DATA_SEQUENCES_CONTEXT_SLICE_H_
