// A model's rotary frequencies, and its tables for a packed stream (kernels/rope_tables.h).
#ifndef MODEL_LAYERS_ROPE_H_
#define MODEL_LAYERS_ROPE_H_

#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "model/config.h"

namespace salamander {

// inv_frequency[d] = theta^(-2d/D), changed by the scaling kind: linear divides by factor; llama3
// divides wavelengths beyond original / low_frequency_factor and blends those up to original /
// high_frequency_factor (Llama 3.1); longrope divides by its short factors where `length` <=
// original_max_positions and its long factors beyond (arXiv 2402.13753).
std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int64_t head_dim,
                                           int64_t length);

// What cos and sin are multiplied by: 1, or longrope's sqrt(1 + ln(max / original) / ln(original)).
double RopeAttentionFactor(const RopeConfig& rope, int64_t max_positions);

struct RotaryTables {
  TensorView cosines, sines;  // [T, D/2] in the activations' StatisticsType
};

// Takes tables for `tokens` rows of activations of a dtype from the context's arena and fills the
// rows that segments name. Longrope takes its long factors where the document is longer than the
// original length (Segment::document_length); a MiniCPM model extended beyond it has the long ones
// in both places (model/checkpoint/huggingface/hf_rope.cc). Documents do not touch each other.
absl::StatusOr<RotaryTables> MakeRopeTables(const ExecutionContext& context,
                                            const ModelConfig& config, int64_t head_dim,
                                            DType activations, Segments segments, int64_t tokens);

}  // namespace salamander

#endif  // MODEL_LAYERS_ROPE_H_
