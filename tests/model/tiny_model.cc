#include "tests/model/tiny_model.h"

#include <utility>

#include "kernels/base/random.h"
#include "kernels/head_loss.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

template <typename Value>
Value OrDie(absl::StatusOr<Value> value) {
  SALAMANDER_CHECK(value.ok()) << value.status().ToString();
  return *std::move(value);
}

ModelWeights RandomWeights(const ModelConfig& config, DType dtype, uint64_t seed) {
  ModelWeights weights = OrDie(ModelWeights::Create(config, dtype));
  for (const ParameterSpec& spec : weights.layout.specs()) {
    const TensorView view = weights.buffer.View(spec);
    SplitMix random(HashCounter(seed, HashName(spec.name)));
    for (int64_t index = 0; index < view.size(); ++index) {
      SetElement(
          view, index,
          spec.kind == ParameterKind::kNorm ? random.Uniform() + 0.5 : 0.3 * random.Normal());
    }
  }
  return weights;
}

}  // namespace

DeviceSession& CpuSession() {
  static const std::unique_ptr<DeviceSession> session = OrDie(DeviceSession::Open({}));
  return *session;
}

ModelConfig TinyDenseConfig(int64_t layers) {
  ModelConfig config;
  config.vocabulary = 24;
  config.width = 16;
  config.intermediate = 20;
  config.layers.resize(static_cast<size_t>(layers));
  config.max_positions = 256;
  config.softmax = {.heads = 4, .kv_heads = 2, .head_dim = 8, .sparse = {}};
  return config;
}

ModelConfig TinyHybridConfig(int64_t layers, const std::vector<int64_t>& kept) {
  ConversionOptions options;
  options.sparse = TinySparseConfig();
  return OrDie(HybridConfig(OrDie(CandidateConfig(TinyDenseConfig(layers))), kept, options));
}

ModelConfig SplittableConfig() {
  ModelConfig config = TinyHybridConfig(3, {1});
  config.vocabulary = 48;
  config.intermediate = 24;
  config.softmax.heads = 8;
  config.softmax.kv_heads = 2;
  config.lightning.heads = config.lightning.kv_heads = 4;
  return config;
}

SparseConfig TinySparseConfig() {
  return {.kernel_size = 4,
          .kernel_stride = 2,
          .block_size = 8,
          .init_blocks = 1,
          .window_size = 8,
          .top_k = 4,
          .dense_length = 0};
}

TinyModel::TinyModel(const ModelConfig& config, DType dtype, uint64_t seed)
    : weights(RandomWeights(config, dtype, seed)),
      transformer(config, BindTensors(config, weights.layout, weights.buffer)) {}

TinyStream::TinyStream(const std::vector<int64_t>& document_lengths, int64_t vocabulary,
                       uint64_t seed) {
  SplitMix random(seed);
  for (const int64_t length : document_lengths) {
    segments.push_back({.query_begin = size(), .query_count = length, .key_begin = size()});
    for (int64_t index = 0; index < length; ++index) {
      tokens.push_back(static_cast<int32_t>(random.Integer(0, vocabulary - 1)));
      loss_weights.push_back(index + 1 < length ? 1.0F : 0.0F);
    }
  }
  targets.assign(tokens.begin() + 1, tokens.end());
  targets.push_back(0);
}

ForwardPass TinyStream::Pass(const ExecutionContext& execution) {
  return {.execution = &execution,
          .tokens = TensorView::Of(tokens.data(), {size()}),
          .segments = segments,
          .cache = nullptr,
          .use_candidate = {},
          .tap = {},
          .recomputation = recomputation};
}

double LossOf(const ExecutionContext& execution, const TinyModel& model, TinyStream& stream,
              const ModelTensors* gradients) {
  const ArenaScope scope(*execution.arena);
  const ForwardPass pass = stream.Pass(execution);
  Activations saved;
  const TensorView hidden =
      OrDie(model.transformer.Forward(pass, gradients == nullptr ? nullptr : &saved));
  const ModelConfig& config = model.transformer.config();
  const TensorView d_hidden =
      execution.arena->Tensor(hidden.dtype(), {stream.size(), config.width});
  HeadGradients head_gradients;
  if (gradients != nullptr)
    head_gradients = {.scale = 1.0, .d_hidden = d_hidden, .d_head = gradients->head};
  double loss = 0.0;
  const absl::Status status = HeadCrossEntropy(
      execution, {.hidden = hidden,
                  .head = model.transformer.weights().head,
                  .logit_scale = config.logit_scale,
                  .targets = TensorView::Of(stream.targets.data(), {stream.size()}),
                  .loss_weights = TensorView::Of(stream.loss_weights.data(), {stream.size()}),
                  .gradients = head_gradients,
                  .token_losses = {},
                  .predictions = {},
                  .loss_sum = TensorView::Of(&loss, {1})});
  SALAMANDER_CHECK(status.ok()) << status.ToString();
  if (gradients != nullptr) {
    const absl::Status backward = model.transformer.Backward(pass, saved, d_hidden, *gradients);
    SALAMANDER_CHECK(backward.ok()) << backward.ToString();
  }
  return loss;
}

}  // namespace salamander
