#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/conversion/parity.h"
#include "model/conversion/transfer.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

using testing::HasSubstr;

TEST(TransferTest, ExpandsKeyValueHeadsInConsecutiveGroups) {
  const TinyModel teacher(TinyDenseConfig(2), DType::kFloat32, 1);
  const auto conversion = AddCandidates(teacher.weights, {});
  ASSERT_TRUE(conversion.ok()) << conversion.status();
  for (const char* name : {"key.weight", "value.weight"}) {
    const TensorView own = teacher.weights.View(std::string("layers.1.mixer.") + name);
    const TensorView expanded = conversion->model.View(std::string("layers.1.candidate.") + name);
    ASSERT_EQ(expanded.dim(0), 32);
    for (int64_t head = 0; head < 4; ++head) {
      EXPECT_TRUE(BitwiseEqual(expanded.Rows(head * 8, 8), own.Rows(head / 2 * 8, 8)))
          << name << " head " << head;
    }
  }
}

TEST(TransferTest, ExpandedHeadsAttendAsGroupedOnes) {
  // A softmax layer with the expanded keys and values is the grouped layer.
  const ModelConfig grouped_config = TinyDenseConfig(1);
  const TinyModel grouped(grouped_config, DType::kFloat64, 2);
  const auto conversion = AddCandidates(grouped.weights, {});
  ASSERT_TRUE(conversion.ok());
  ModelConfig full_config = grouped_config;
  full_config.softmax.kv_heads = full_config.softmax.heads;
  const TinyModel full(full_config, DType::kFloat64, 2);
  for (const ParameterSpec& spec : full.weights.layout.specs()) {
    const bool expanded =
        spec.name == "layers.0.mixer.key.weight" || spec.name == "layers.0.mixer.value.weight";
    const TensorView source =
        expanded ? conversion->model.View("layers.0.candidate." + spec.name.substr(15))
                 : grouped.weights.View(spec.name);
    std::memcpy(full.weights.View(spec.name).raw(), source.raw(),
                static_cast<size_t>(source.bytes()));
  }
  TestContext context;
  TinyStream stream({40, 9}, grouped_config.vocabulary, 3);
  EXPECT_NEAR(LossOf(context, full, stream), LossOf(context, grouped, stream), 1e-10);
}

TEST(TransferTest, CandidatesLeaveTheTeacherUntouched) {
  const TinyModel teacher(TinyDenseConfig(3), DType::kFloat32, 4);
  const auto conversion = AddCandidates(teacher.weights, {});
  ASSERT_TRUE(conversion.ok());
  const ModelWeights& model = conversion->model;
  const Transformer beside(model.config, BindTensors(model.config, model.layout, model.buffer));
  TestContext context;
  TinyStream stream({50}, 24, 5);
  const auto expected = teacher.transformer.Forward(stream.Pass(context), nullptr);
  const auto actual = beside.Forward(stream.Pass(context), nullptr);
  ASSERT_TRUE(expected.ok() && actual.ok());
  EXPECT_TRUE(BitwiseEqual(*actual, *expected));
  context.arena().RewindTo(0);
}

TEST(TransferTest, EveryTensorHasOneFate) {
  const TinyModel teacher(TinyDenseConfig(3), DType::kFloat32, 4);
  const auto candidates = AddCandidates(teacher.weights, {});
  ASSERT_TRUE(candidates.ok());
  const auto hybrid = KeepLayers(candidates->model, {0, 2}, {});
  ASSERT_TRUE(hybrid.ok()) << hybrid.status();
  std::multiset<std::string> filled, dropped;
  for (const TransferRecord& record : hybrid->records) {
    (record.fate == TransferFate::kDropped ? dropped : filled).insert(record.name);
  }
  EXPECT_EQ(filled.size(), hybrid->model.layout.specs().size());
  for (const ParameterSpec& spec : hybrid->model.layout.specs())
    EXPECT_EQ(filled.count(spec.name), 1U) << spec.name;
  EXPECT_EQ(dropped.count("layers.0.candidate.query.weight"), 1U);
  EXPECT_EQ(dropped.count("layers.1.mixer.query.weight"), 1U);
  EXPECT_EQ(dropped.count("layers.1.candidate.query.weight"), 0U);
}

TEST(TransferTest, OpenGateComputesWhatTheUngatedLayerDid) {
  const TinyModel teacher(TinyDenseConfig(2), DType::kFloat32, 6);
  const ConversionOptions options{
      .gate = GateInitialization::kOpen, .rope_in_kept_layers = true, .sparse = {}};
  const auto candidates = AddCandidates(teacher.weights, options);
  ASSERT_TRUE(candidates.ok());
  const auto hybrid = KeepLayers(candidates->model, {0, 1}, options);
  ASSERT_TRUE(hybrid.ok()) << hybrid.status();
  const ModelWeights& model = hybrid->model;
  const Transformer gated(model.config, BindTensors(model.config, model.layout, model.buffer));
  TestContext context;
  TinyStream stream({30, 12}, 24, 7);
  const auto expected = teacher.transformer.Forward(stream.Pass(context), nullptr);
  const auto actual = gated.Forward(stream.Pass(context), nullptr);
  ASSERT_TRUE(expected.ok() && actual.ok());
  EXPECT_LT(MaxAbsDifference(*actual, *expected), 1e-5);
  context.arena().RewindTo(0);
}

TEST(TransferTest, KeptLayersLoseRopeAndGainAGate) {
  const ModelConfig config = TinyHybridConfig(4, {0, 3});
  EXPECT_FALSE(config.softmax.use_rope);
  EXPECT_TRUE(config.softmax.use_output_gate);
  EXPECT_EQ(config.layers[1].mixer, MixerKind::kLightning);
  EXPECT_EQ(config.layers[3].mixer, MixerKind::kSoftmax);
  EXPECT_EQ(config.lightning.kv_heads, 4);
}

TEST(TransferTest, RefusesListsThatNameNoLayerOrOneTwice) {
  const auto candidates = CandidateConfig(TinyDenseConfig(3));
  ASSERT_TRUE(candidates.ok());
  EXPECT_THAT(HybridConfig(*candidates, {0, 0}, {}).status().message(), HasSubstr("twice"));
  EXPECT_THAT(HybridConfig(*candidates, {0, 3}, {}).status().message(), HasSubstr("0..2"));
  EXPECT_THAT(HybridConfig(TinyDenseConfig(3), {0}, {}).status().message(),
              HasSubstr("convert --all"));
  EXPECT_THAT(CandidateConfig(TinyHybridConfig(3, {0})).status().message(), HasSubstr("lightning"));
}

double LargestMagnitude(const TensorView& view) {
  double largest = 0.0;
  for (int64_t i = 0; i < view.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(view.data<float>()[i])));
  return largest;
}

TEST(TransferTest, FreshPartsStartAsPublished) {
  const TinyModel teacher(TinyDenseConfig(2), DType::kFloat32, 5);
  const auto candidates = AddCandidates(teacher.weights, {});
  ASSERT_TRUE(candidates.ok());
  const TestTensor ones = TestTensor::Constant(DType::kFloat32, {8}, 1.0);
  const TestTensor more_ones = TestTensor::Constant(DType::kFloat32, {32}, 1.0);
  const auto view = [&](const char* name) { return candidates->model.View(name); };
  EXPECT_TRUE(BitwiseEqual(view("layers.1.candidate.query_norm.weight"), ones.View()));
  EXPECT_TRUE(BitwiseEqual(view("layers.1.candidate.key_norm.weight"), ones.View()));
  EXPECT_TRUE(BitwiseEqual(view("layers.1.candidate.output_norm.weight"), more_ones.View()));
  // Uniform in +-1/sqrt(C) in Lightning layers, C = 16.
  const double widest = LargestMagnitude(view("layers.1.candidate.gate.weight"));
  EXPECT_LE(widest, 0.25);
  EXPECT_GT(widest, 0.24);

  const auto hybrid = KeepLayers(candidates->model, {0}, {});
  ASSERT_TRUE(hybrid.ok()) << hybrid.status();
  // Normal(0, 0.02) in kept layers: 512 values of root mean square 0.02.
  const TensorView gate = hybrid->model.View("layers.0.mixer.gate.weight");
  double squares = 0.0;
  for (int64_t i = 0; i < gate.size(); ++i)
    squares += std::pow(static_cast<double>(gate.data<float>()[i]), 2);
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(gate.size())), 0.02, 0.003);
}

TEST(TransferTest, NormsOfTheTeacherItsTiedHeadAndItsScalesAreKept) {
  ModelConfig config = TinyDenseConfig(2);
  config.softmax.use_qk_norm = config.tie_embeddings = true;
  config.embedding_scale = 12.0;
  config.residual_scale = 0.25;
  config.logit_scale = 0.5;
  const TinyModel teacher(config, DType::kFloat32, 5);
  const auto candidates = AddCandidates(teacher.weights, {});
  ASSERT_TRUE(candidates.ok());
  for (const char* name : {"query_norm.weight", "key_norm.weight"}) {
    EXPECT_TRUE(BitwiseEqual(candidates->model.View(std::string("layers.1.candidate.") + name),
                             teacher.weights.View(std::string("layers.1.mixer.") + name)));
  }
  const auto hybrid = KeepLayers(candidates->model, {0}, {});
  ASSERT_TRUE(hybrid.ok()) << hybrid.status();
  const ModelConfig& kept = hybrid->model.config;
  EXPECT_TRUE(kept.tie_embeddings);
  EXPECT_TRUE(kept.softmax.use_qk_norm);
  EXPECT_EQ(kept.embedding_scale, 12.0);
  EXPECT_EQ(kept.residual_scale, 0.25);
  EXPECT_EQ(kept.logit_scale, 0.5);
  EXPECT_TRUE(hybrid->model.View("head.weight").empty());
}

TEST(ParityTest, SumsOfALayerAgreeWithEachOther) {
  const TinyModel teacher(TinyDenseConfig(2), DType::kFloat32, 8);
  const auto conversion = AddCandidates(teacher.weights, {});
  ASSERT_TRUE(conversion.ok());
  const ModelWeights& model = conversion->model;
  const Transformer transformer(model.config,
                                BindTensors(model.config, model.layout, model.buffer));
  TestContext context;
  TinyStream stream({40, 20}, 24, 9);
  std::vector<LayerParity> layers(2);
  ASSERT_TRUE(AddCandidateParity(transformer, stream.Pass(context), layers).ok());
  for (const LayerParity& layer : layers) {
    EXPECT_GT(layer.target, 0.0);
    EXPECT_GT(layer.relative_error(), 0.0);
    EXPECT_LE(std::abs(layer.cosine()), 1.0);
    EXPECT_NEAR(layer.squared_error, layer.output - 2 * layer.product + layer.target,
                1e-3 * layer.target);
  }
}

TEST(ParityTest, OneTokenThroughOneHeadIsParallelToItsTeacher) {
  // A document of one token: softmax gives v, Lightning a multiple of v, and the output norm and an
  // open gate keep its direction.
  ModelConfig config = TinyDenseConfig(2);
  config.softmax.heads = config.softmax.kv_heads = 1;
  const TinyModel teacher(config, DType::kFloat64, 10);
  const auto conversion =
      AddCandidates(teacher.weights, {.gate = GateInitialization::kOpen, .sparse = {}});
  ASSERT_TRUE(conversion.ok()) << conversion.status();
  const ModelWeights& model = conversion->model;
  const Transformer transformer(model.config,
                                BindTensors(model.config, model.layout, model.buffer));
  TestContext context;
  TinyStream stream({1}, 24, 11);
  std::vector<LayerParity> layers(2);
  ASSERT_TRUE(AddCandidateParity(transformer, stream.Pass(context), layers).ok());
  for (const LayerParity& layer : layers) EXPECT_NEAR(std::abs(layer.cosine()), 1.0, 1e-9);
}

}  // namespace
}  // namespace salamander
