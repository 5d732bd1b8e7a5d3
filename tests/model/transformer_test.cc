#include "model/transformer.h"

#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "tests/support/finite_difference.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

ModelConfig QwenConfig() {
  ModelConfig config = TinyDenseConfig(2);
  config.softmax.use_qk_norm = true;
  config.tie_embeddings = true;
  return config;
}

ModelConfig MupConfig() {
  ModelConfig config = TinyHybridConfig(3, {0});
  config.embedding_scale = 3.0;
  config.residual_scale = 0.6;
  config.logit_scale = 0.5;
  return config;
}

ModelConfig SparseHybridConfig(DenseRule rule, int64_t dense_length) {
  ModelConfig config = TinyHybridConfig(3, {0, 2});
  config.softmax.use_sparse = true;
  config.softmax.sparse.dense_rule = rule;
  config.softmax.sparse.dense_length = dense_length;
  return config;
}

struct Case {
  std::string name;
  ModelConfig config;
};

std::vector<Case> Cases() {
  return {{"DenseLlama", TinyDenseConfig(2)},
          {"QkNormTied", QwenConfig()},
          {"LightningWithMup", MupConfig()},
          {"SparsePerDocument", SparseHybridConfig(DenseRule::kPerDocument, 40)},
          {"SparsePerQuery", SparseHybridConfig(DenseRule::kPerQuery, 20)}};
}

class TransformerTest : public testing::TestWithParam<Case> {};

TEST_P(TransformerTest, GradientsMatchFiniteDifferences) {
  const ModelConfig& config = GetParam().config;
  TestContext context;
  const TinyModel model(config, DType::kFloat64, 11);
  TinyStream stream({1, 70, 13, 30}, config.vocabulary, 8);
  auto buffer = ParameterBuffer::Create(model.weights.layout, DType::kFloat64);
  ASSERT_TRUE(buffer.ok());
  const ModelTensors gradients = BindTensors(config, model.weights.layout, *buffer);
  LossOf(context, model, stream, &gradients);
  for (const ParameterSpec& spec : model.weights.layout.specs()) {
    // A short step, and a stream without two blocks of nearly one score: where a step changes which
    // blocks a query reads, the loss jumps.
    EXPECT_TRUE(MatchesFiniteDifferences([&] { return LossOf(context, model, stream); },
                                         model.weights.buffer.View(spec), buffer->View(spec),
                                         {.step = 1e-7, .tolerance = 2e-5, .samples = 4}))
        << spec.name;
  }
}

TEST_P(TransformerTest, OtherDocumentsIgnoreAChangedToken) {
  const ModelConfig& config = GetParam().config;
  TestContext context;
  const TinyModel model(config, DType::kFloat32, 12);
  TinyStream stream({60, 1, 50, 33}, config.vocabulary, 6);
  const auto run = [&](TestTensor& hidden, TestTensor& embedding_gradient) {
    Activations saved;
    const ArenaScope scope(context.arena());
    const ForwardPass pass = stream.Pass(context);
    const auto result = model.transformer.Forward(pass, &saved);
    ASSERT_TRUE(result.ok());
    std::memcpy(hidden.View().raw(), result->raw(), static_cast<size_t>(result->bytes()));
    // A row of the table for each token of the stream would hide nothing: give each row a gradient
    // of its own.
    auto buffer = ParameterBuffer::Create(model.weights.layout, DType::kFloat32);
    ASSERT_TRUE(buffer.ok());
    const ModelTensors gradients = BindTensors(config, model.weights.layout, *buffer);
    TestTensor d_hidden = TestTensor::Normal(DType::kFloat32, {stream.size(), config.width}, 9);
    ASSERT_TRUE(model.transformer.Backward(pass, saved, d_hidden.View(), gradients).ok());
    std::memcpy(embedding_gradient.View().raw(), gradients.embedding.raw(),
                static_cast<size_t>(gradients.embedding.bytes()));
  };
  // Document 2 alone uses the upper half of the vocabulary, so the upper rows' gradients are its
  // own.
  const auto is_document_2 = [&](size_t row) { return row >= 61 && row < 111; };
  for (size_t row = 0; row < stream.tokens.size(); ++row) {
    stream.tokens[row] = stream.tokens[row] % 12 + (is_document_2(row) ? 12 : 0);
  }
  TestTensor before(DType::kFloat32, {stream.size(), config.width}), after = before;
  TestTensor gradient_before(DType::kFloat32, {config.vocabulary, config.width}),
      gradient_after = gradient_before;
  run(before, gradient_before);
  stream.tokens[3] = (stream.tokens[3] + 1) % 12;
  run(after, gradient_after);
  EXPECT_FALSE(BitwiseEqual(after.View().Rows(0, 60), before.View().Rows(0, 60)));
  EXPECT_TRUE(BitwiseEqual(after.View().Rows(60, 84), before.View().Rows(60, 84)));
  EXPECT_FALSE(BitwiseEqual(gradient_after.View().Rows(0, 12), gradient_before.View().Rows(0, 12)));
  EXPECT_TRUE(
      BitwiseEqual(gradient_after.View().Rows(12, 12), gradient_before.View().Rows(12, 12)));
}

TEST_P(TransformerTest, TwoRunsAndTwoThreadsGiveTheSameBits) {
  const ModelConfig& config = GetParam().config;
  TestContext context;
  const TinyModel model(config, DType::kFloat32, 13);
  TinyStream stream({90, 40}, config.vocabulary, 7);
  const auto gradients_with = [&](int threads) {
    const ScopedThreadCount scope(threads);
    auto buffer = ParameterBuffer::Create(model.weights.layout, DType::kFloat32);
    SALAMANDER_CHECK(buffer.ok());
    const ModelTensors gradients = BindTensors(config, model.weights.layout, *buffer);
    LossOf(context, model, stream, &gradients);
    return *std::move(buffer);
  };
  const ParameterBuffer first = gradients_with(1);
  EXPECT_TRUE(BitwiseEqual(gradients_with(1).Flat(), first.Flat()));
  EXPECT_TRUE(BitwiseEqual(gradients_with(2).Flat(), first.Flat()));
}

INSTANTIATE_TEST_SUITE_P(Models, TransformerTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.name; });

// Final hidden states of one document, token by token after a prefix of `prefill`.
void ExpectDecodingEqualsForward(const ModelConfig& config, int64_t tokens, int64_t prefill) {
  TestContext context;
  const TinyModel model(config, DType::kFloat64, 14);
  TinyStream stream({tokens}, config.vocabulary, 8);
  const auto whole = model.transformer.Forward(stream.Pass(context), nullptr);
  ASSERT_TRUE(whole.ok());
  auto cache = DecodeCache::Create(config, DType::kFloat64, 1, tokens, CpuSession());
  ASSERT_TRUE(cache.ok());
  for (int64_t begin = 0; begin < tokens;) {
    const int64_t count = begin == 0 ? prefill : 1;
    const auto segment = cache->NextSegment(0, 0, count);
    ASSERT_TRUE(segment.ok());
    const ArenaScope scope(context.arena());
    ForwardPass pass = stream.Pass(context);
    pass.tokens = pass.tokens.Rows(begin, count);
    pass.segments = absl::MakeConstSpan(&*segment, 1);
    pass.cache = &*cache;
    const auto part = model.transformer.Forward(pass, nullptr);
    ASSERT_TRUE(part.ok()) << part.status();
    EXPECT_LT(MaxAbsDifference(*part, whole->Rows(begin, count)), 1e-10) << "tokens from " << begin;
    cache->Advance(0, count);
    begin += count;
  }
  EXPECT_FALSE(cache->NextSegment(0, 0, cache->capacity()).ok());
  context.arena().RewindTo(0);
}

TEST(DecodeTest, DenseStepsEqualTheFullForward) {
  ExpectDecodingEqualsForward(QwenConfig(), 40, 9);
}
TEST(DecodeTest, HybridStepsEqualTheFullForward) {
  ExpectDecodingEqualsForward(MupConfig(), 70, 30);
}
TEST(DecodeTest, PerQueryRuleStepsEqualTheFullForwardAcrossDenseLength) {
  ExpectDecodingEqualsForward(SparseHybridConfig(DenseRule::kPerQuery, 33), 90, 20);
}
TEST(DecodeTest, PerDocumentRuleStepsEqualTheFullForwardBelowDenseLength) {
  ExpectDecodingEqualsForward(SparseHybridConfig(DenseRule::kPerDocument, 100), 90, 20);
}
TEST(DecodeTest, PerDocumentRuleStepsEqualTheFullForwardBeyondDenseLength) {
  ExpectDecodingEqualsForward(SparseHybridConfig(DenseRule::kPerDocument, 20), 90, 20);
}

TEST(DecodeTest, StrideOfOneTokenFitsTheCache) {
  ModelConfig config = TinyHybridConfig(2, {0, 1});
  config.softmax.use_sparse = true;
  config.softmax.sparse.kernel_size = 2;
  config.softmax.sparse.kernel_stride = 1;
  config.softmax.sparse.block_size = 4;
  // Keys enough that alignment does not hide a missing row.
  EXPECT_TRUE(DecodeCache::Create(config, DType::kFloat64, 2, 4096, CpuSession()).ok());
}

TEST(TransformerDeathTest, SwappingInACandidateThatIsNotThereIsFatal) {
  TestContext context;
  const TinyModel model(TinyDenseConfig(2), DType::kFloat32, 16);
  TinyStream stream({5}, 24, 10);
  ForwardPass pass = stream.Pass(context);
  const bool swapped[] = {false, true};
  pass.use_candidate = swapped;
  EXPECT_DEATH((void)model.transformer.Forward(pass, nullptr), "layer 1 has no candidate");
}

// The gradients of one stream under a choice of what is computed again, and the memory it took.
struct Recomputed {
  TestTensor gradients;
  int64_t peak_bytes = 0;
};

Recomputed RunRecomputed(const TinyModel& model, std::vector<Recomputation> recomputation) {
  TestContext context;
  TinyStream stream({1, 70, 13, 30}, model.transformer.config().vocabulary, 5);
  stream.recomputation = std::move(recomputation);
  const ParameterLayout& layout = model.weights.layout;
  TestTensor gradients(DType::kFloat32, {layout.total_size()});
  auto buffer = ParameterBuffer::Create(layout, DType::kFloat32);
  EXPECT_TRUE(buffer.ok());
  const ModelTensors views = BindTensors(model.transformer.config(), layout, *buffer);
  LossOf(context, model, stream, &views);
  std::memcpy(gradients.View().raw(), buffer->Flat().raw(),
              static_cast<size_t>(buffer->Flat().bytes()));
  return {gradients, context.arena().peak_bytes()};
}

TEST_P(TransformerTest, WhatIsComputedAgainChangesMemoryAndNoBit) {
  const TinyModel model(GetParam().config, DType::kFloat32, 11);
  const size_t layers = GetParam().config.layers.size();
  const Recomputed kept = RunRecomputed(model, {});
  int64_t peak_before = kept.peak_bytes;
  for (const Recomputation what : {Recomputation::kAttention, Recomputation::kFull}) {
    const Recomputed again = RunRecomputed(model, std::vector<Recomputation>(layers, what));
    EXPECT_TRUE(BitwiseEqual(again.gradients.View(), kept.gradients.View()));
    EXPECT_LT(again.peak_bytes, peak_before);
    peak_before = again.peak_bytes;
  }
  // Layers of each kind beside each other, either first.
  for (const size_t first : {0U, 1U}) {
    std::vector<Recomputation> mixed(layers, Recomputation::kNone);
    mixed[first] = Recomputation::kFull;
    EXPECT_TRUE(BitwiseEqual(RunRecomputed(model, mixed).gradients.View(), kept.gradients.View()));
    mixed[1 - first] = Recomputation::kAttention;
    EXPECT_TRUE(BitwiseEqual(RunRecomputed(model, mixed).gradients.View(), kept.gradients.View()));
  }
}

TEST(TransformerTest, FrozenParametersGetNoGradientAndTrainableOnesTheSame) {
  const ModelConfig config = MupConfig();
  TestContext context;
  const TinyModel model(config, DType::kFloat32, 15);
  TinyStream stream({50, 20}, config.vocabulary, 9);
  auto all = ParameterBuffer::Create(model.weights.layout, DType::kFloat32);
  auto some = ParameterBuffer::Create(model.weights.layout, DType::kFloat32);
  ASSERT_TRUE(all.ok() && some.ok());
  const auto is_lightning = [](const ParameterSpec& spec) {
    return spec.role == ParameterRole::kLightningMixer;
  };
  const ModelTensors every = BindTensors(config, model.weights.layout, *all);
  const ModelTensors lightning = BindTrainable(config, model.weights.layout, *some, is_lightning);
  LossOf(context, model, stream, &every);
  LossOf(context, model, stream, &lightning);
  const TestTensor zeros(DType::kFloat32, {model.weights.layout.total_size()});
  for (const ParameterSpec& spec : model.weights.layout.specs()) {
    const TensorView expected =
        is_lightning(spec) ? all->View(spec) : zeros.View().Rows(0, spec.size());
    EXPECT_TRUE(
        BitwiseEqual(some->View(spec).Reshape({spec.size()}), expected.Reshape({spec.size()})))
        << spec.name;
  }
}

}  // namespace
}  // namespace salamander
