// Small random models and packed streams for the model's tests.
#ifndef TESTS_MODEL_TINY_MODEL_H_
#define TESTS_MODEL_TINY_MODEL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/device.h"
#include "model/conversion/transfer.h"
#include "model/transformer.h"

namespace salamander {

// The CPU as a session, for the memory of what is under test.
DeviceSession& CpuSession();

// Width 16, 4 heads of 8 with 2 KV heads, vocabulary 24: softmax layers with RoPE, nothing else.
ModelConfig TinyDenseConfig(int64_t layers);

// Kept layers (as given) without RoPE and with gates, the others Lightning.
ModelConfig TinyHybridConfig(int64_t layers, const std::vector<int64_t>& kept);

// Softmax and Lightning layers whose parameters 1, 2 or 4 tensor ranks can share; keys and values
// of fewer softmax heads than four ranks.
ModelConfig SplittableConfig();

// Selection small enough to matter at a hundred tokens: blocks of 8, one local, two of content.
SparseConfig TinySparseConfig();

// Weights whose activations are of order one, norms not all ones.
struct TinyModel {
  TinyModel(const ModelConfig& config, DType dtype, uint64_t seed);

  ModelWeights weights;
  Transformer transformer;
};

// Documents end to end, random tokens and their next ones as targets.
struct TinyStream {
  TinyStream(const std::vector<int64_t>& document_lengths, int64_t vocabulary, uint64_t seed);

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  ForwardPass Pass(const ExecutionContext& execution);

  std::vector<int32_t> tokens, targets;
  std::vector<float> loss_weights;
  std::vector<Segment> segments;
  std::vector<Recomputation> recomputation;  // [layers] or empty
};

// Cross-entropy over the stream; with `gradients` also their sum.
double LossOf(const ExecutionContext& execution, const TinyModel& model, TinyStream& stream,
              const ModelTensors* gradients = nullptr);

}  // namespace salamander

#endif  // TESTS_MODEL_TINY_MODEL_H_
