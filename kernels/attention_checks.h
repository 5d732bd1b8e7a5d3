// Shape checks that dense and sparse attention and block selection share.
#ifndef KERNELS_ATTENTION_CHECKS_H_
#define KERNELS_ATTENTION_CHECKS_H_

#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "kernels/dispatch.h"

namespace salamander {

// Whole groups of query heads, equal head dimensions, and rows of segments inside the tensors.
// `keys` is any tensor [rows, Hkv, D]; `key_rows` bounds the segments' keys.
inline void CheckHeadsAndSegments(const TensorView& q, const TensorView& keys, int64_t key_rows,
                                  Segments segments) {
  SALAMANDER_CHECK(q.rank() == 3 && keys.rank() == 3 && q.dim(2) == keys.dim(2) &&
                   q.dim(1) % keys.dim(1) == 0 && q.dtype() == keys.dtype())
      << "q " << q.ShapeString() << ", keys " << keys.ShapeString();
  for (const Segment& segment : segments) {
    SALAMANDER_CHECK(segment.query_count >= 1 && segment.first_position >= 0 &&
                     segment.query_begin >= 0 && segment.key_begin >= 0 &&
                     segment.query_begin + segment.query_count <= q.dim(0) &&
                     segment.key_begin + segment.key_count() <= key_rows)
        << "segment of " << segment.query_count << " queries from row " << segment.query_begin
        << " at position " << segment.first_position << ", keys from row " << segment.key_begin
        << ", in " << q.dim(0) << " query rows and " << key_rows << " key rows";
  }
}

// Args: the forward or backward arguments of dense or sparse attention.
template <typename Args>
void CheckAttentionArgs(const Args& args) {
  CHECK_SAME_SHAPE(args.k, args.v);
  CheckHeadsAndSegments(args.q, args.k, args.k.dim(0), args.segments);
  CHECK_SAME_SHAPE(args.q, args.out);
  SALAMANDER_CHECK(args.logsumexp.empty() || (args.logsumexp.dim(0) == args.q.dim(0) &&
                                              args.logsumexp.row_size() == args.q.dim(1)))
      << "logsumexp " << args.logsumexp.ShapeString() << ", q " << args.q.ShapeString();
}

template <typename Args>
void CheckAttentionGradients(const Args& args) {
  SALAMANDER_CHECK(!args.logsumexp.empty()) << "the backward needs the forward's logsumexp";
  CHECK_SAME_SHAPE(args.d_out, args.q);
  CHECK_SAME_SHAPE(args.dq, args.q);
  CHECK_SAME_SHAPE(args.dk, args.k);
  CHECK_SAME_SHAPE(args.dv, args.v);
}

}  // namespace salamander

#endif  // KERNELS_ATTENTION_CHECKS_H_
