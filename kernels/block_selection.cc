#include "kernels/block_selection.h"

#include "kernels/attention_checks.h"
#include "kernels/dispatch.h"

namespace salamander {
namespace {

// Sparse attention needs every query's own block in its list, so forced blocks must fit.
void CheckShape(const BlockSelectionShape& shape) {
  SALAMANDER_CHECK(shape.kernel_stride >= 1 && shape.kernel_size >= shape.kernel_stride &&
                   shape.block_size >= 1 && shape.init_blocks >= 0 && shape.local_blocks >= 0 &&
                   shape.init_blocks + shape.local_blocks + 1 <= shape.selected_blocks)
      << "kernel " << shape.kernel_size << ", stride " << shape.kernel_stride << ", block "
      << shape.block_size << ", init " << shape.init_blocks << ", local " << shape.local_blocks
      << " before the current one, of " << shape.selected_blocks << " selected";
}

void CheckPooledRows(const TensorView& keys, const TensorView& pooled, int64_t rows) {
  SALAMANDER_CHECK(pooled.dim(0) == rows && pooled.dtype() == keys.dtype() &&
                   pooled.row_size() == keys.row_size())
      << "pooled keys " << pooled.ShapeString() << ", keys " << keys.ShapeString() << ", rows "
      << rows;
}

}  // namespace

// A window spans at least one stride, so the row of a segment's last window lies below its keys'
// end divided by the stride.
int64_t FineKeyRows(int64_t key_rows, const BlockSelectionShape& shape) {
  return key_rows / shape.kernel_stride;
}

int64_t CoarseKeyRows(int64_t key_rows, const BlockSelectionShape& shape) {
  return key_rows / (4 * shape.kernel_stride);
}

absl::Status PoolKeys(const ExecutionContext& context, const PoolKeysArgs& args) {
  CheckShape(args.shape);
  CheckKeyRows(args.k.dim(0), args.segments);
  CheckPooledRows(args.k, args.fine_keys, FineKeyRows(args.k.dim(0), args.shape));
  CheckPooledRows(args.k, args.coarse_keys, CoarseKeyRows(args.k.dim(0), args.shape));
  DISPATCH_BACKEND(PoolKeys, context, args);
}

absl::Status SelectBlocks(const ExecutionContext& context, const SelectBlocksArgs& args) {
  CheckShape(args.shape);
  SALAMANDER_CHECK(args.blocks.rank() == 3 && args.blocks.dtype() == DType::kInt32 &&
                   args.blocks.dim(0) == args.q.dim(0) &&
                   args.blocks.dim(2) == args.shape.selected_blocks)
      << "blocks " << args.blocks.ShapeString() << ", q " << args.q.ShapeString();
  for (const TensorView& pooled : {args.fine_keys, args.coarse_keys}) {
    CheckHeads(args.q, pooled);
    SALAMANDER_CHECK(pooled.dim(1) == args.blocks.dim(1))
        << "pooled keys " << pooled.ShapeString() << ", blocks " << args.blocks.ShapeString();
  }
  CheckQueryRows(args.q.dim(0), args.segments);
  DISPATCH_BACKEND(SelectBlocks, context, args);
}

}  // namespace salamander
