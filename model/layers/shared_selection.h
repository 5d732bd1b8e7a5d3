// Block selection where tensor ranks share a head of keys and values: a query's score is a sum over
// all query heads of the group, of which each rank has some, and all of them must read the same
// blocks. The ranks exchange queries, so that each scores its share of the rows with all heads, and
// gather the lists.
#ifndef MODEL_LAYERS_SHARED_SELECTION_H_
#define MODEL_LAYERS_SHARED_SELECTION_H_

#include "absl/status/status.h"

#include "kernels/block_selection.h"
#include "model/layers/mixer.h"

namespace salamander {

// SelectBlocks, among the `holders` ranks that hold the same head; of 1 nothing is exchanged. The
// list of a query that no segment names is undefined.
absl::Status SelectSharedBlocks(const MixerPass& pass, int holders, const SelectBlocksArgs& args);

}  // namespace salamander

#endif  // MODEL_LAYERS_SHARED_SELECTION_H_
