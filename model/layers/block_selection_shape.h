// The kernels' view of a sparse configuration.
#ifndef MODEL_LAYERS_BLOCK_SELECTION_SHAPE_H_
#define MODEL_LAYERS_BLOCK_SELECTION_SHAPE_H_

#include "kernels/block_selection.h"
#include "model/config.h"

namespace salamander {

inline BlockSelectionShape SelectionShape(const SparseConfig& sparse) {
  return {.kernel_size = sparse.kernel_size,
          .kernel_stride = sparse.kernel_stride,
          .block_size = sparse.block_size,
          .init_blocks = sparse.init_blocks,
          .local_blocks = sparse.local_blocks(),
          .selected_blocks = sparse.selected_blocks()};
}

}  // namespace salamander

#endif  // MODEL_LAYERS_BLOCK_SELECTION_SHAPE_H_
