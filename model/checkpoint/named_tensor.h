// Parameters by name, as the readers and writers of checkpoints take them: a name of
// model/parameters.h and the memory it lives in.
#ifndef MODEL_CHECKPOINT_NAMED_TENSOR_H_
#define MODEL_CHECKPOINT_NAMED_TENSOR_H_

#include <string>

#include "kernels/base/tensor_view.h"

namespace salamander {

struct NamedTensor {
  std::string name;
  TensorView view;
};

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_NAMED_TENSOR_H_
