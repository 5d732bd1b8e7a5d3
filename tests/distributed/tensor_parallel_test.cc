// On several tensor ranks a model computes what it computes on one: the same sums in another order.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "data/sequences/packed_stream.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/layers/attention_split.h"
#include "model/parallel/sequence_shards.h"
#include "model/shared_gradients.h"
#include "tests/distributed/world.h"
#include "tests/model/model_part.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr int64_t kLayers = 3;

// A sum of n terms in another order is off by about sqrt(n) roundings of its own size. Sums here
// have up to 120 terms, and some 30 of them lie one behind the other in a model of three layers,
// forward and backward: about 11 * sqrt(60) roundings, of which gradients that nearly cancel see
// ten times as much.
double Bound(DType dtype) {
  constexpr double kRoundings = 85;
  return kRoundings * (dtype == DType::kFloat64 ? 0x1p-53 : 0x1p-24);
}

struct Case {
  std::string name;
  ModelConfig config;
};

ModelConfig WithEveryScale(ModelConfig config) {
  config.embedding_scale = 1.5;
  config.residual_scale = 0.7;
  config.logit_scale = 0.6;
  return config;
}

ModelConfig Sparse(ModelConfig config, int64_t kv_heads, DenseRule rule, int64_t dense_length) {
  config.softmax.kv_heads = kv_heads;
  config.softmax.use_sparse = true;
  config.softmax.sparse = TinySparseConfig();
  config.softmax.sparse.dense_rule = rule;
  config.softmax.sparse.dense_length = dense_length;
  return config;
}

std::vector<Case> Cases() {
  const ModelConfig dense = TinyDenseConfig(kLayers), hybrid = TinyHybridConfig(kLayers, {1});
  ModelConfig normed = WithEveryScale(dense), tied = dense, one_key = dense, plain = hybrid;
  normed.softmax.use_qk_norm = true;
  tied.tie_embeddings = true;
  one_key.softmax.kv_heads = 1;
  plain.lightning.use_output_norm = plain.lightning.use_output_gate = false;
  plain.lightning.use_qk_norm = false;
  ModelConfig kept = Sparse(hybrid, 1, DenseRule::kPerQuery, 12);
  return {
      {"Dense", dense},
      {"DenseWithQkNormAndScales", normed},
      {"DenseTied", tied},
      {"DenseWithOneKeyHead", one_key},
      {"Hybrid", WithEveryScale(hybrid)},
      {"HybridWithoutNormOrGate", plain},
      {"SparseByDocument", Sparse(dense, 4, DenseRule::kPerDocument, 24)},
      {"SparseByDocumentWithSharedKeys", Sparse(dense, 2, DenseRule::kPerDocument, 24)},
      {"SparseByQueryWithOneKeyHead", Sparse(dense, 1, DenseRule::kPerQuery, 12)},
      {"SparseHybridWithOneKeyHead", kept},
  };
}

std::vector<Case> SparseCases() {
  std::vector<Case> sparse;
  for (const Case& each : Cases()) {
    if (each.config.softmax.use_sparse) sparse.push_back(each);
  }
  return sparse;
}

std::string NameOf(const testing::TestParamInfo<Case>& given) {
  return given.param.name;
}

void PrintTo(const Case& given, std::ostream* stream) {
  *stream << given.name;
}

// Documents of unequal length, most of which lie on several ranks, and padding.
PackedStream RaggedStream() {
  SplitMix random(5);
  PackedStream stream;
  for (const int64_t length : {37, 9, 1, 50, 16}) {
    std::vector<int32_t> tokens;
    std::vector<float> weights;
    for (int64_t index = 0; index < length; ++index) {
      tokens.push_back(static_cast<int32_t>(random.Integer(0, 22)));
      weights.push_back(random.Integer(0, 4) == 0 ? 0.0F : 1.0F);
    }
    AppendPiece(tokens, -1, weights, &stream);
  }
  AppendPadding(7, 23, &stream);
  return stream;
}

enum class Kind { kLanguageModel, kDistillation, kAlignment };

// A model and its gradients, whole or a rank's part.
struct Side {
  Side(const ModelWeights& whole, const TensorShard& shard)
      : weights(PartOfWeights(whole, shard)),
        transformer(weights.config, BindTensors(weights.config, weights.layout, weights.buffer)),
        gradients(*ParameterBuffer::Create(weights.layout, weights.buffer.Flat().dtype())),
        views(BindTensors(weights.config, weights.layout, gradients)) {}

  ModelWeights weights;
  Transformer transformer;
  ParameterBuffer gradients;
  ModelTensors views;
};

// A model and a teacher on one rank, and the same split among all ranks of the world.
struct Problem {
  Problem(const ModelConfig& config, DType dtype)
      : model(config, dtype, 41),
        teacher_model(TinyDenseConfig(kLayers), dtype, 42),
        parallel(*ParallelContext::Create(World(), {.data = 1, .context = 1, .tensor = Ranks()}, {},
                                          HolderCounts(config, Ranks()))),
        whole(model.weights, {}),
        part(model.weights, Shard()),
        teacher(teacher_model.weights, Shard()) {}

  static int Ranks() { return World().size(); }
  static TensorShard Shard() { return {.rank = World().rank(), .ranks = World().size()}; }

  std::unique_ptr<Objective> ObjectiveOf(Kind kind, bool is_split,
                                         std::vector<Recomputation> recomputation = {}) {
    const Transformer& student = is_split ? part.transformer : whole.transformer;
    const ParallelContext* ranks = is_split ? &parallel : nullptr;
    switch (kind) {
      case Kind::kLanguageModel:
        return LanguageModelObjective(student, std::move(recomputation), ranks);
      case Kind::kDistillation:
        return DistillationObjective(student,
                                     is_split ? teacher.transformer : teacher_model.transformer,
                                     std::move(recomputation), ranks);
      case Kind::kAlignment:
        return AlignmentObjective(student, ranks);
    }
    return nullptr;
  }

  // The loss, and its gradients in the side's buffer, complete on every rank.
  absl::StatusOr<double> Run(const Objective& objective, Side& side, bool is_split) {
    double loss = 0.0;
    RETURN_IF_ERROR(Zero(context, side.gradients.Flat()));
    absl::Status status = objective.Accumulate({.execution = context,
                                                .stream = stream,
                                                .gradient_scale = 0.7,
                                                .gradients = &side.views,
                                                .loss_sum = TensorView::Of(&loss, {1})});
    if (status.ok() && is_split) {
      status = SumSharedGradients(context, side.weights.layout,
                                  ShardLayout(side.weights.layout, 0, 1), side.gradients, parallel);
    }
    if (!status.ok()) return status;
    return loss;
  }
  ScopedThreadCount threads{1};  // the work is too small to share
  TestContext context;
  PackedStream stream = RaggedStream();
  TinyModel model, teacher_model;
  ParallelContext parallel;
  Side whole, part, teacher;
};

// Every rank holds the same bytes.
bool SameOnAllRanks(const void* data, int64_t bytes) {
  const auto all = World().AllGather(
      absl::string_view(static_cast<const char*>(data), static_cast<size_t>(bytes)));
  for (const std::string& other : *all) {
    if (other != all->front()) return false;
  }
  return true;
}

// Loss and gradients of the problem's models on all ranks, within the bound of those on one.
void ExpectObjectiveAsOnOneRank(Kind kind, Problem& problem) {
  const DType dtype = problem.model.weights.buffer.Flat().dtype();
  const auto expected = problem.Run(*problem.ObjectiveOf(kind, false), problem.whole, false);
  const auto actual = problem.Run(*problem.ObjectiveOf(kind, true), problem.part, true);
  ASSERT_TRUE(expected.ok() && actual.ok()) << expected.status() << actual.status();
  EXPECT_NEAR(*actual, *expected, Bound(dtype) * std::abs(*expected));
  EXPECT_TRUE(SameOnAllRanks(&*actual, sizeof(double)));
  double worst = 0.0;
  for (const ParameterSpec& spec : problem.part.weights.layout.specs()) {
    const ParameterSpec& whole = *problem.whole.weights.layout.Find(spec.name);
    const double error =
        RelativeError(problem.part.gradients.View(spec), spec, problem.whole.gradients.View(whole));
    worst = std::max(worst, error);
    EXPECT_LT(error, 10 * Bound(dtype)) << spec.name;
  }
  std::cout << "worst relative error of a gradient: " << worst << ", bound " << 10 * Bound(dtype)
            << "\n";
}

class TensorParallelTest : public testing::TestWithParam<std::tuple<Case, DType>> {
 protected:
  static ModelConfig Config() { return std::get<0>(GetParam()).config; }
  static DType Type() { return std::get<1>(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Models, TensorParallelTest,
                         testing::Combine(testing::ValuesIn(Cases()),
                                          testing::Values(DType::kFloat64, DType::kFloat32)),
                         [](const auto& given) {
                           return absl::StrCat(std::get<0>(given.param).name,
                                               Name(std::get<1>(given.param)));
                         });

// For what holds bit by bit, in fp32.
class TensorParallelBitsTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Models, TensorParallelBitsTest, testing::ValuesIn(Cases()), NameOf);

class TensorParallelSparseTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Models, TensorParallelSparseTest, testing::ValuesIn(SparseCases()),
                         NameOf);

TEST_P(TensorParallelTest, HiddenStateIsThatOfOneRank) {
  Problem problem(Config(), Type());
  const ArenaScope scope(problem.context.arena());
  const ExecutionContext& execution = problem.context;
  const auto expected =
      problem.whole.transformer.Forward(*PassOver(execution, problem.stream), nullptr);
  const auto actual = problem.part.transformer.Forward(
      *PassOver(execution, problem.stream, &problem.parallel), nullptr);
  ASSERT_TRUE(expected.ok() && actual.ok()) << actual.status();
  EXPECT_LT(RelativeRmse(*actual, ShardOf(&problem.parallel, *expected)), Bound(Type()));
}

TEST_P(TensorParallelTest, NextTokenLossAndGradientsAreThoseOfOneRank) {
  Problem problem(Config(), Type());
  ExpectObjectiveAsOnOneRank(Kind::kLanguageModel, problem);
}

TEST_P(TensorParallelTest, DistillationLossAndGradientsAreThoseOfOneRank) {
  Problem problem(Config(), Type());
  ExpectObjectiveAsOnOneRank(Kind::kDistillation, problem);
}

TEST_P(TensorParallelBitsTest, RecomputationChangesNoBit) {
  Problem problem(GetParam().config, DType::kFloat32);
  const auto run = [&](Recomputation recomputation) {
    const auto objective = problem.ObjectiveOf(Kind::kLanguageModel, true,
                                               std::vector<Recomputation>(kLayers, recomputation));
    return problem.Run(*objective, problem.part, true);
  };
  const auto kept = run(Recomputation::kNone);
  ASSERT_TRUE(kept.ok()) << kept.status();
  const TensorView flat = problem.part.gradients.Flat();
  TestTensor gradients(flat.dtype(), {flat.size()});
  ASSERT_TRUE(Copy(problem.context, flat, gradients.View()).ok());
  for (const Recomputation recomputation : {Recomputation::kAttention, Recomputation::kFull}) {
    const auto recomputed = run(recomputation);
    ASSERT_TRUE(recomputed.ok()) << recomputed.status();
    EXPECT_EQ(*recomputed, *kept);
    EXPECT_TRUE(BitwiseEqual(flat, gradients.View()));
  }
}

// Ranks that share a head of keys hold one and the same list; at equal scores in fp64 it is that of
// one rank.
TEST_P(TensorParallelSparseTest, LayersReadTheBlocksOfOneRank) {
  const ModelConfig& config = GetParam().config;
  Problem problem(config, DType::kFloat64);
  const ArenaScope scope(problem.context.arena());
  const ExecutionContext& execution = problem.context;
  Activations whole, part;
  ASSERT_TRUE(problem.whole.transformer.Forward(*PassOver(execution, problem.stream), &whole).ok());
  ASSERT_TRUE(problem.part.transformer
                  .Forward(*PassOver(execution, problem.stream, &problem.parallel), &part)
                  .ok());
  const AttentionSplit split = SplitAttention(config.softmax, problem.stream.segments);
  ASSERT_FALSE(split.sparse.empty());
  const int64_t first_head = World().rank() * config.softmax.kv_heads / World().size();
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    if (config.layers[static_cast<size_t>(layer)].mixer != MixerKind::kSoftmax) continue;
    const TensorView all = whole.layers[static_cast<size_t>(layer)].mixer.blocks;
    const TensorView own = part.layers[static_cast<size_t>(layer)].mixer.blocks;
    for (const Segment& segment : split.sparse) {
      for (int64_t t = segment.query_begin; t < segment.query_begin + segment.query_count; ++t) {
        const TensorView heads = own.Rows(t, 1).Reshape({own.dim(1), own.dim(2)});
        const TensorView expected = all.Rows(t, 1).Reshape({all.dim(1), all.dim(2)});
        ASSERT_TRUE(BitwiseEqual(heads, expected.Rows(first_head, own.dim(1))))
            << "layer " << layer << " row " << t;
      }
    }
  }
}

// A token of one document changes no bit of the others, on whichever ranks they lie.
TEST_P(TensorParallelBitsTest, DocumentsDoNotSeeEachOtherAcrossRanks) {
  Problem problem(GetParam().config, DType::kFloat32);
  const auto hidden_of = [&](TestTensor& copy) {
    const ArenaScope scope(problem.context.arena());
    const ExecutionContext& execution = problem.context;
    const auto hidden = problem.part.transformer.Forward(
        *PassOver(execution, problem.stream, &problem.parallel), nullptr);
    SALAMANDER_CHECK(hidden.ok()) << hidden.status().ToString();
    copy = TestTensor(hidden->dtype(), {problem.stream.size(), hidden->dim(1)});
    SALAMANDER_CHECK(GatherRows(&problem.parallel, *hidden, copy.View()).ok()) << "gather";
  };
  TestTensor before, after;
  hidden_of(before);
  const Segment& changed = problem.stream.segments[3];
  int32_t& token = problem.stream.tokens[static_cast<size_t>(changed.query_begin + 3)];
  token = (token + 5) % 23;
  hidden_of(after);
  for (const Segment& segment : problem.stream.segments) {
    const auto rows = [&](const TestTensor& tensor) {
      return tensor.View().Rows(segment.query_begin, segment.query_count);
    };
    const bool is_same = BitwiseEqual(rows(after), rows(before));
    EXPECT_EQ(is_same, segment.query_begin != changed.query_begin) << segment.query_begin;
  }
}

// What a pass with gradients sends: docs name it, and nothing else may travel.
//
//   rows    [T, C] gathered 6 L + 2 times and summed 4 L + 2 times: each half of a layer gathers
//           its input (twice) and d_output and sums output and d_input, embedding and head one of
//           each and back
//   loss    four fp64 of each weighted row of each rank
//   norms   a statistic of each row, twice, of each Lightning layer with an output norm
//   shared  gradients of what all ranks hold, once
//   sparse  queries of each layer with shared keys, and the lists
TEST_P(TensorParallelBitsTest, SendsWhatTheFormulaSays) {
  const ModelConfig& config = GetParam().config;
  const int ranks = World().size();
  if (config.softmax.kv_heads != 1 && config.softmax.kv_heads < ranks)
    GTEST_SKIP() << "ranks share heads in groups of their own";
  Problem problem(config, DType::kFloat32);
  const auto objective = problem.ObjectiveOf(Kind::kLanguageModel, true);
  ASSERT_TRUE(problem.Run(*objective, problem.part, true).ok());
  int64_t lightning = 0;
  for (const LayerConfig& layer : config.layers)
    lightning += layer.mixer == MixerKind::kLightning ? 1 : 0;
  const bool shares = config.softmax.use_sparse && config.softmax.kv_heads == 1;
  const int64_t sparse = shares ? kLayers - lightning : 0;
  const int64_t tokens = problem.stream.size();
  const auto& weights = problem.stream.loss_weights;
  const int64_t weighted =
      static_cast<int64_t>(weights.size()) - std::count(weights.begin(), weights.end(), 0.0F);
  const int64_t rows = tokens * config.width * 4;
  const int64_t lists = tokens * config.softmax.sparse.selected_blocks() * 4;
  const int64_t queries = tokens * config.softmax.heads / ranks * config.softmax.head_dim * 4;
  const int64_t norms = config.lightning.use_output_norm ? 2 * lightning : 0;
  int64_t shared = 0;
  for (const ParameterSpec& spec : problem.part.weights.layout.specs())
    shared += spec.holders > 1 ? spec.size() * 4 : 0;
  const Traffic& sent = problem.parallel.tensor().traffic();
  const auto of = [&](Collective collective) { return sent[static_cast<size_t>(collective)]; };
  EXPECT_EQ(
      of(Collective::kAllGather),
      (CollectiveTraffic{6 * kLayers + 3 + sparse,
                         (6 * kLayers + 2) * rows + ranks * weighted * 4 * 8 + sparse * lists}));
  EXPECT_EQ(of(Collective::kReduceScatter),
            (CollectiveTraffic{4 * kLayers + 2, (4 * kLayers + 2) * rows}));
  EXPECT_EQ(of(Collective::kAllReduce),
            (CollectiveTraffic{norms + 1, norms * tokens * 4 + shared}));
  EXPECT_EQ(of(Collective::kAllToAll), (CollectiveTraffic{sparse, sparse * queries}));
  EXPECT_EQ(of(Collective::kBroadcast), CollectiveTraffic{});
}

class TensorParallelAlignmentTest : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DTypes, TensorParallelAlignmentTest,
                         testing::Values(DType::kFloat64, DType::kFloat32),
                         [](const auto& given) { return std::string(Name(given.param)); });

TEST_P(TensorParallelAlignmentTest, LossAndGradientsAreThoseOfOneRank) {
  Problem problem(*CandidateConfig(TinyDenseConfig(kLayers)), GetParam());
  ExpectObjectiveAsOnOneRank(Kind::kAlignment, problem);
}

TEST(TensorParallelSharedTest, EveryHolderGetsTheSameBits) {
  Problem problem(Cases()[3].config, DType::kFloat32);
  ASSERT_TRUE(
      problem.Run(*problem.ObjectiveOf(Kind::kLanguageModel, true), problem.part, true).ok());
  int shared = 0;
  for (const ParameterSpec& spec : problem.part.weights.layout.specs()) {
    if (spec.holders != World().size()) continue;
    const TensorView gradient = problem.part.gradients.View(spec);
    EXPECT_TRUE(SameOnAllRanks(gradient.raw(), gradient.bytes())) << spec.name;
    ++shared;
  }
  EXPECT_GE(shared, 1 + 4 * kLayers);  // the norms, keys and values
}

TEST(TensorParallelTokensTest, IdsOutsideTheWholeVocabularyAreRefusedOnEveryRank) {
  Problem problem(TinyDenseConfig(kLayers), DType::kFloat32);
  const auto objective = problem.ObjectiveOf(Kind::kLanguageModel, true);
  problem.stream.tokens[4] = 24;
  EXPECT_THAT(problem.Run(*objective, problem.part, true).status().message(),
              HasSubstr("id 24 is outside the embedding table's [0, 24)"));
  problem.stream.tokens[4] = 0;
  problem.stream.loss_weights[5] = 1.0F;
  problem.stream.targets[5] = 1000;
  EXPECT_THAT(problem.Run(*objective, problem.part, true).status().message(),
              HasSubstr("id 1000 is outside the head's [0, 24)"));
}

}  // namespace
}  // namespace salamander
