// What the tests of context parallelism run: models of every kind of layer, on the slice of a
// stream that is this rank's, or on all of it.
#ifndef TESTS_DISTRIBUTED_CONTEXT_RANKS_H_
#define TESTS_DISTRIBUTED_CONTEXT_RANKS_H_

#include <cstring>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "data/sequences/context_slice.h"
#include "kernels/head_loss.h"
#include "model/parallel/parallel_context.h"
#include "model/transformer.h"
#include "tests/distributed/block_lists.h"
#include "tests/distributed/world.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {

inline ModelConfig QkNormConfig() {
  ModelConfig config = TinyDenseConfig(2);
  config.softmax.use_qk_norm = true;
  return config;
}

inline ModelConfig SparseHybridConfig(DenseRule rule, int64_t dense_length) {
  ModelConfig config = TinyHybridConfig(4, {0, 2});
  config.softmax.use_sparse = true;
  config.softmax.sparse.dense_rule = rule;
  config.softmax.sparse.dense_length = dense_length;
  return config;
}

// Documents of more than 40 tokens turn by other frequencies.
inline ModelConfig LongRopeConfig() {
  ModelConfig config = TinyDenseConfig(1);
  config.rope.scaling = RopeScalingKind::kLongRope;
  config.rope.original_max_positions = 40;
  config.rope.short_factor = {1.0, 1.1, 1.2, 1.3};
  config.rope.long_factor = {1.5, 2.0, 3.0, 4.0};
  return config;
}

// Heads that have forgotten a slice of 36 tokens, and in fp64 one of 300, when it ends.
inline ModelConfig ForgetfulConfig() {
  ModelConfig config = TinyHybridConfig(3, {});
  config.lightning.slopes = {3.0, 4.0, 3.5, 5.0};
  return config;
}

struct ContextCase {
  std::string name;
  ModelConfig config;
};

inline void PrintTo(const ContextCase& given, std::ostream* stream) {
  *stream << given.name;
}

inline std::vector<ContextCase> Cases() {
  return {{"Dense", QkNormConfig()},
          {"LongRope", LongRopeConfig()},
          {"Lightning", TinyHybridConfig(3, {})},
          {"Forgetful", ForgetfulConfig()},
          {"Hybrid", TinyHybridConfig(3, {1})},
          {"SparsePerDocument", SparseHybridConfig(DenseRule::kPerDocument, 90)},
          {"SparsePerQuery", SparseHybridConfig(DenseRule::kPerQuery, 20)}};
}

inline PackedStream Pack(const TinyStream& stream) {
  return {.tokens = stream.tokens,
          .targets = stream.targets,
          .loss_weights = stream.loss_weights,
          .segments = stream.segments};
}

// What a rank's rows give.
struct SliceOutcome {
  double loss = 0.0;
  TestTensor hidden;  // [T, C]
  ParameterBuffer gradients;
  std::vector<BlockLists> lists;  // [layers], empty where nothing is sparse
};

inline ParameterBuffer ZeroGradientsOf(const TinyModel& model) {
  auto buffer = ParameterBuffer::Create(model.weights.layout, model.weights.buffer.Flat().dtype());
  SALAMANDER_CHECK(buffer.ok()) << buffer.status().ToString();
  return *std::move(buffer);
}

class ContextRanks : public testing::TestWithParam<ContextCase> {
 protected:
  ContextRanks()
      : parallel_(*ParallelContext::Create(World(), {.context = World().size()}, context_)) {}

  const ModelConfig& config() const { return GetParam().config; }
  static PackedStream Mine(const PackedStream& stream) {
    return SliceOf(stream, World().rank(), World().size());
  }
  static int64_t FirstRow(const PackedStream& stream) {
    return stream.size() / World().size() * World().rank();
  }

  // Forward, loss and backward over rows of which other ranks hold the rest, or over all there are.
  SliceOutcome Run(const TinyModel& model, PackedStream stream, const ParallelContext* parallel,
                   absl::Span<const Recomputation> recomputation = {}) {
    const ArenaScope scope(context_.arena());
    const ForwardPass pass = Pass(stream, parallel, recomputation);
    Activations saved;
    const auto hidden = model.transformer.Forward(pass, &saved);
    SALAMANDER_CHECK(hidden.ok()) << hidden.status().ToString();
    SliceOutcome outcome{.hidden = Kept(*hidden), .gradients = ZeroGradientsOf(model), .lists = {}};
    for (const LayerActivations& layer : saved.layers) {
      outcome.lists.emplace_back();
      if (layer.mixer.blocks.empty()) continue;
      outcome.lists.back() = {Kept(layer.mixer.query), Kept(layer.mixer.key),
                              Kept(layer.mixer.blocks)};
    }
    const ModelTensors gradients = BindTensors(config(), model.weights.layout, outcome.gradients);
    const TensorView d_hidden =
        context_.arena().Tensor(hidden->dtype(), {stream.size(), config().width});
    SALAMANDER_CHECK(
        HeadCrossEntropy(
            context_, {.hidden = *hidden,
                       .head = model.transformer.weights().head,
                       .logit_scale = config().logit_scale,
                       .targets = TensorView::Of(stream.targets.data(), {stream.size()}),
                       .loss_weights = TensorView::Of(stream.loss_weights.data(), {stream.size()}),
                       .gradients = {.scale = 1.0, .d_hidden = d_hidden, .d_head = gradients.head},
                       .token_losses = {},
                       .predictions = {},
                       .loss_sum = TensorView::Of(&outcome.loss, {1})})
            .ok());
    SALAMANDER_CHECK(model.transformer.Backward(pass, saved, d_hidden, gradients).ok());
    return outcome;
  }

  ForwardPass Pass(PackedStream& stream, const ParallelContext* parallel,
                   absl::Span<const Recomputation> recomputation = {}) {
    return {.execution = &static_cast<const ExecutionContext&>(context_),
            .tokens = TensorView::Of(stream.tokens.data(), {stream.size()}),
            .segments = stream.segments,
            .tap = {},
            .recomputation = recomputation,
            .parallel = parallel};
  }

  static TestTensor Kept(const TensorView& view) {
    TestTensor kept = view.rank() == 2
                          ? TestTensor(view.dtype(), {view.dim(0), view.dim(1)})
                          : TestTensor(view.dtype(), {view.dim(0), view.dim(1), view.dim(2)});
    std::memcpy(kept.View().raw(), view.raw(), static_cast<size_t>(view.bytes()));
    return kept;
  }

  ScopedThreadCount threads_{1};  // the work is too small to share
  TestContext context_;
  ParallelContext parallel_;
};

}  // namespace salamander

#endif  // TESTS_DISTRIBUTED_CONTEXT_RANKS_H_
