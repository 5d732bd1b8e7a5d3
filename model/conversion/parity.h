// How close each Lightning candidate comes to the mixer it would replace, measured on real text.
#ifndef MODEL_CONVERSION_PARITY_H_
#define MODEL_CONVERSION_PARITY_H_

#include <vector>

#include "absl/status/status.h"

#include "model/transformer.h"

namespace salamander {

// Sums over tokens and channels of a layer's outputs: y of the candidate, z of its teacher.
struct LayerParity {
  double squared_error = 0.0;  // (y - z)^2
  double product = 0.0;        // y z
  double output = 0.0;         // y^2
  double target = 0.0;         // z^2

  double cosine() const;          // 0 where either is zero
  double relative_error() const;  // |y - z| / |z|
};

// Runs the stream through the teacher's mixers and adds each candidate's sums to `layers` (sized
// and zeroed by the caller; layers without a candidate keep zero).
absl::Status AddCandidateParity(const Transformer& model, const ForwardPass& pass,
                                std::vector<LayerParity>& layers);

}  // namespace salamander

#endif  // MODEL_CONVERSION_PARITY_H_
