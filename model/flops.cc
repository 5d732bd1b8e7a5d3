#include "model/flops.h"

#include <algorithm>
#include <initializer_list>

#include "model/layers/attention_split.h"

namespace salamander {
namespace {

constexpr double kOperations = 2.0;      // of a multiply-add
constexpr int64_t kLightningChunk = 64;  // the convention that peers count by
constexpr int64_t kCoarseness = 4;       // coarse over fine pooling

// Sum of the visible keys of a segment's queries: positions p + 1 for each.
double CausalPairs(const Segment& segment) {
  const auto first = static_cast<double>(segment.first_position);
  const auto count = static_cast<double>(segment.query_count);
  return count * first + count * (count + 1) / 2;
}

// Pooled keys of `kernel` tokens every `stride` whose last token is at or before the position.
int64_t VisiblePooledKeys(int64_t kernel, int64_t stride, int64_t position) {
  return position + 1 < kernel ? 0 : (position + 1 - kernel) / stride + 1;
}

double ProjectionFlops(double width, double heads, double kv_heads, double head_dim, bool gate,
                       double tokens) {
  const double inner = heads * head_dim;
  const double outputs = inner * (gate ? 3 : 2) + 2 * kv_heads * head_dim;
  return kOperations * width * outputs * tokens;
}

ModelFlops SoftmaxLayer(const ModelConfig& config, Segments segments) {
  const SoftmaxConfig& softmax = config.softmax;
  const double head_size =
      static_cast<double>(softmax.heads) * static_cast<double>(softmax.head_dim);
  const AttentionSplit split = SplitAttention(softmax, segments);
  ModelFlops flops;
  for (const Segment& segment : split.dense) {
    flops.dense_attention += 2 * kOperations * head_size * CausalPairs(segment);
  }
  for (const Segment& segment : split.sparse) {
    const SparseConfig& sparse = softmax.sparse;
    double keys = 0;
    double pooled = 0;
    for (int64_t query = 0; query < segment.query_count; ++query) {
      const int64_t position = segment.first_position + query;
      keys += static_cast<double>(SelectedKeys(sparse, position));
      pooled += static_cast<double>(
          VisiblePooledKeys(sparse.kernel_size, sparse.kernel_stride, position) +
          VisiblePooledKeys(kCoarseness * sparse.kernel_size, kCoarseness * sparse.kernel_stride,
                            position));
    }
    flops.sparse_attention += 2 * kOperations * head_size * keys;
    flops.block_selection += kOperations * head_size * pooled;
  }
  return flops;
}

// Of `width` columns, or rows, and as many of the other as are given.
struct Weight {
  const TensorView& gradient;  // empty: it does not train
  int64_t size;                // beside the width
};

double WeightFlops(const ModelConfig& config, std::initializer_list<Weight> weights,
                   int64_t tokens) {
  double elements = 0;
  for (const Weight& weight : weights) {
    if (weight.gradient.empty()) continue;
    elements += static_cast<double>(weight.size) * static_cast<double>(config.width);
  }
  return kOperations * elements * static_cast<double>(tokens);
}

}  // namespace

ModelFlops& ModelFlops::operator+=(const ModelFlops& other) {
  projections += other.projections;
  mlp += other.mlp;
  head += other.head;
  dense_attention += other.dense_attention;
  sparse_attention += other.sparse_attention;
  block_selection += other.block_selection;
  lightning += other.lightning;
  return *this;
}

int64_t SelectedKeys(const SparseConfig& sparse, int64_t position) {
  const int64_t own_block = position / sparse.block_size;
  const int64_t blocks_before = std::min(own_block, sparse.selected_blocks() - 1);
  return blocks_before * sparse.block_size + position % sparse.block_size + 1;
}

ModelFlops LightningMixerFlops(const ModelConfig& config, int64_t tokens) {
  const LightningConfig& lightning = config.lightning;
  const auto heads = static_cast<double>(lightning.heads);
  const auto dim = static_cast<double>(lightning.head_dim);
  ModelFlops flops;
  flops.projections = ProjectionFlops(static_cast<double>(config.width), heads,
                                      static_cast<double>(lightning.kv_heads), dim,
                                      lightning.use_output_gate, static_cast<double>(tokens));
  flops.lightning = static_cast<double>(tokens) * heads *
                    (2 * kOperations * dim * dim + kOperations * kLightningChunk * dim);
  return flops;
}

ModelFlops ForwardFlops(const ModelConfig& config, Segments segments) {
  int64_t tokens = 0;
  for (const Segment& segment : segments) tokens += segment.query_count;
  const auto rows = static_cast<double>(tokens);
  const auto width = static_cast<double>(config.width);
  const SoftmaxConfig& softmax = config.softmax;
  ModelFlops softmax_layer = SoftmaxLayer(config, segments);
  softmax_layer.projections = ProjectionFlops(
      width, static_cast<double>(softmax.heads), static_cast<double>(softmax.kv_heads),
      static_cast<double>(softmax.head_dim), softmax.use_output_gate, rows);
  const ModelFlops lightning_layer = LightningMixerFlops(config, tokens);

  ModelFlops flops;
  for (const LayerConfig& layer : config.layers) {
    flops += layer.mixer == MixerKind::kSoftmax ? softmax_layer : lightning_layer;
    flops.mlp += 3 * kOperations * width * static_cast<double>(config.intermediate) * rows;
  }
  flops.head = kOperations * width * static_cast<double>(config.vocabulary) * rows;
  return flops;
}

double WeightGradientFlops(const ModelConfig& config, MixerKind kind, const MixerTensors& gradients,
                           int64_t tokens) {
  const bool softmax = kind == MixerKind::kSoftmax;
  const int64_t head_dim = softmax ? config.softmax.head_dim : config.lightning.head_dim;
  const int64_t inner = head_dim * (softmax ? config.softmax.heads : config.lightning.heads);
  const int64_t kv = head_dim * (softmax ? config.softmax.kv_heads : config.lightning.kv_heads);
  return WeightFlops(config,
                     {{gradients.query, inner},
                      {gradients.key, kv},
                      {gradients.value, kv},
                      {gradients.output, inner},
                      {gradients.gate, inner}},
                     tokens);
}

double TrainingFlops(const ModelConfig& config, const ModelFlops& forward,
                     const ModelTensors& gradients, int64_t tokens) {
  double weights = WeightFlops(config, {{gradients.head, config.vocabulary}}, tokens);
  for (size_t layer = 0; layer < gradients.layers.size(); ++layer) {
    const LayerTensors& tensors = gradients.layers[layer];
    weights += WeightGradientFlops(config, config.layers[layer].mixer, tensors.mixer, tokens);
    weights += WeightFlops(config,
                           {{tensors.mlp.gate, config.intermediate},
                            {tensors.mlp.up, config.intermediate},
                            {tensors.mlp.down, config.intermediate}},
                           tokens);
  }
  const double attention = forward.dense_attention + forward.sparse_attention + forward.lightning;
  const double inputs = forward.projections + forward.mlp + forward.head;
  return forward.total() + 2 * attention + inputs + weights;
}

}  // namespace salamander
