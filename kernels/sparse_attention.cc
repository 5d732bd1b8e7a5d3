#include "kernels/sparse_attention.h"

#include "kernels/attention_checks.h"
#include "kernels/dispatch.h"

namespace salamander {
namespace {

template <typename Args>
void CheckLists(const Args& args) {
  SALAMANDER_CHECK(args.blocks.rank() == 3 && args.blocks.dtype() == DType::kInt32 &&
                   args.blocks.dim(0) == args.q.dim(0) && args.blocks.dim(1) == args.k.dim(1) &&
                   args.blocks.dim(2) >= 1 && args.block_size >= 1)
      << "blocks " << args.blocks.ShapeString() << ", q " << args.q.ShapeString() << ", k "
      << args.k.ShapeString() << ", block size " << args.block_size;
}

}  // namespace

absl::Status SparseAttentionForward(const ExecutionContext& context,
                                    const SparseAttentionForwardArgs& args) {
  CheckAttentionArgs(args);
  CheckLists(args);
  DISPATCH_BACKEND(SparseAttentionForward, context, args);
}

absl::Status SparseAttentionBackward(const ExecutionContext& context,
                                     const SparseAttentionBackwardArgs& args) {
  CheckAttentionArgs(args);
  CheckAttentionGradients(args);
  CheckLists(args);
  DISPATCH_BACKEND(SparseAttentionBackward, context, args);
}

}  // namespace salamander
