// Which queries of a packed stream run dense attention and which sparse, under a model's rule.
#ifndef MODEL_LAYERS_ATTENTION_SPLIT_H_
#define MODEL_LAYERS_ATTENTION_SPLIT_H_

#include <vector>

#include "kernels/base/segments.h"
#include "model/config.h"

namespace salamander {

struct AttentionSplit {
  std::vector<Segment> dense, sparse;  // together the queries of the stream, keys unchanged
};

// Without use_sparse everything is dense. Per document: sparse where its length, on whichever ranks
// it lies, reaches dense_length. Per query: sparse where position + 1 does; a segment that crosses
// is cut in two there.
AttentionSplit SplitAttention(const SoftmaxConfig& config, Segments segments);

}  // namespace salamander

#endif  // MODEL_LAYERS_ATTENTION_SPLIT_H_
