// What one of several tensor ranks holds of a model whose weights are all at hand.
#ifndef TESTS_MODEL_MODEL_PART_H_
#define TESTS_MODEL_MODEL_PART_H_

#include "kernels/base/tensor_view.h"
#include "model/conversion/transfer.h"
#include "model/parameters.h"

namespace salamander {

ModelWeights PartOfWeights(const ModelWeights& whole, const TensorShard& shard);

// Root-mean-square of (part - the whole's elements that it stands for), over that of the whole
// tensor; 0 where both are zero everywhere.
double RelativeError(const TensorView& part, const ParameterSpec& spec, const TensorView& whole);

}  // namespace salamander

#endif  // TESTS_MODEL_MODEL_PART_H_
