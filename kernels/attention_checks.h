// Shape checks that dense and sparse attention and block selection share.
#ifndef KERNELS_ATTENTION_CHECKS_H_
#define KERNELS_ATTENTION_CHECKS_H_

#include <cstdint>

#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "kernels/dispatch.h"

namespace salamander {

// Whole groups of query heads on the KV heads of `keys` [rows, Hkv, D].
inline void CheckHeads(const TensorView& q, const TensorView& keys) {
  SALAMANDER_CHECK(q.rank() == 3 && keys.rank() == 3 && q.dim(2) == keys.dim(2) &&
                   q.dim(1) % keys.dim(1) == 0 && q.dtype() == keys.dtype())
      << "q " << q.ShapeString() << ", keys " << keys.ShapeString();
}

inline void CheckQueryRows(int64_t rows, Segments segments) {
  for (const Segment& segment : segments) {
    SALAMANDER_CHECK(segment.query_count >= 1 && segment.query_begin >= 0 &&
                     segment.query_begin + segment.query_count <= rows)
        << "segment of " << segment.query_count << " queries from row " << segment.query_begin
        << ", in " << rows << " query rows";
  }
}

inline void CheckKeyRows(int64_t rows, Segments segments) {
  for (const Segment& segment : segments) {
    SALAMANDER_CHECK(segment.first_position >= 0 && segment.key_begin >= 0 &&
                     segment.key_begin + segment.key_count() <= rows)
        << "segment of " << segment.key_count() << " keys from row " << segment.key_begin << ", in "
        << rows << " key rows";
  }
}

// Args: the forward or backward arguments of dense or sparse attention.
template <typename Args>
void CheckAttentionArgs(const Args& args) {
  CheckHeads(args.q, args.k);
  CHECK_SAME_SHAPE(args.k, args.v);
  CHECK_SAME_SHAPE(args.q, args.out);
  CheckQueryRows(args.q.dim(0), args.segments);
  CheckKeyRows(args.k.dim(0), args.segments);
  SALAMANDER_CHECK(args.logsumexp.empty() ||
                   (args.logsumexp.dim(0) == args.q.dim(0) &&
                    args.logsumexp.row_size() == args.q.dim(1) &&
                    args.logsumexp.dtype() == StatisticsType(args.q.dtype())))
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
