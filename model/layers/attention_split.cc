#include "model/layers/attention_split.h"

#include <algorithm>

namespace salamander {
namespace {

// Queries of the segment that stay dense: its first ones.
int64_t DenseQueries(const SparseConfig& sparse, const Segment& segment) {
  if (sparse.dense_rule == DenseRule::kPerDocument) {
    return segment.document_length() < sparse.dense_length ? segment.query_count : 0;
  }
  return std::clamp<int64_t>(sparse.dense_length - 1 - segment.first_position, 0,
                             segment.query_count);
}

}  // namespace

AttentionSplit SplitAttention(const SoftmaxConfig& config, Segments segments) {
  AttentionSplit split;
  for (const Segment& segment : segments) {
    const int64_t dense =
        config.use_sparse ? DenseQueries(config.sparse, segment) : segment.query_count;
    if (dense > 0) {
      split.dense.push_back(segment);
      split.dense.back().query_count = dense;
    }
    if (dense < segment.query_count) {
      split.sparse.push_back(segment);
      split.sparse.back().query_begin += dense;
      split.sparse.back().query_count -= dense;
      split.sparse.back().first_position += dense;
    }
  }
  return split;
}

}  // namespace salamander
