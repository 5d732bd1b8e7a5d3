// Runs of a parameter's elements as a rank holds them, in checkpoints that know whole tensors. A
// run of the rank's part is at most three rectangles of the whole: the end of a row, whole rows of
// the part, the beginning of a row.
#ifndef MODEL_CHECKPOINT_PARAMETER_RUNS_H_
#define MODEL_CHECKPOINT_PARAMETER_RUNS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

#include "kernels/base/tensor_view.h"
#include "model/checkpoint/checkpoint.h"
#include "model/parameters.h"

namespace salamander {

// In the order of the elements.
std::vector<Rectangle> RectanglesOf(const ParameterSpec& spec, int64_t begin, int64_t count);

// The run of `values` [count] that begins at the part's element `begin`, to be written under a
// tensor's name.
std::vector<TensorPiece> PiecesOfRun(const std::string& name, const ParameterSpec& spec,
                                     int64_t begin, const TensorView& values);

// Fills `values` [count], on the host.
absl::Status ReadRun(const Checkpoint& checkpoint, const std::string& name,
                     const ParameterSpec& spec, int64_t begin, const TensorView& values);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_PARAMETER_RUNS_H_
