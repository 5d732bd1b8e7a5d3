// Every mesh of the ranks there are gives what one rank gives: slices of the stream on the context
// axis, parts of the weights on the tensor axis, other streams on the data axis.
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "data/sequences/context_slice.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/conversion/transfer.h"
#include "model/shared_gradients.h"
#include "tests/distributed/world.h"
#include "tests/model/model_part.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

constexpr int64_t kLayers = 3;

// Sums of the same terms in another order, each of at most a few hundred: sqrt(500) roundings in
// root mean square, times what three layers amplify. Blocks are chosen alike in fp64.
constexpr double kBound = 1e-12;

struct Case {
  std::string name;
  ModelConfig config;
};

void PrintTo(const Case& given, std::ostream* stream) {
  *stream << given.name;
}

std::vector<Case> Cases() {
  ModelConfig hybrid = TinyHybridConfig(kLayers, {1});
  hybrid.softmax.use_sparse = true;
  hybrid.softmax.sparse.dense_rule = DenseRule::kPerQuery;
  hybrid.softmax.sparse.dense_length = 20;
  ModelConfig sparse = TinyDenseConfig(kLayers);
  sparse.softmax.use_sparse = true;
  sparse.softmax.sparse = TinySparseConfig();
  sparse.softmax.sparse.dense_length = 40;
  sparse.softmax.kv_heads = 1;
  for (ModelConfig* const config : {&hybrid, &sparse}) config->vocabulary = 48;
  ModelConfig dense = TinyDenseConfig(kLayers);
  dense.tie_embeddings = true;
  return {{"DenseTied", dense}, {"HybridByQuery", hybrid}, {"SparseByDocumentSharedKeys", sparse}};
}

// Of 96 tokens: documents across every edge of slices and of rows.
PackedStream StreamOf(int data_rank) {
  SplitMix random(static_cast<uint64_t>(data_rank) + 9);
  PackedStream stream;
  for (const int64_t length : {43, 1, 40, 7}) {
    std::vector<int32_t> tokens;
    for (int64_t index = 0; index < length; ++index)
      tokens.push_back(static_cast<int32_t>(random.Integer(0, 22)));
    AppendPiece(tokens, -1, {}, &stream);
  }
  AppendPadding(5, 23, &stream);
  return stream;
}

enum class Kind { kLanguageModel, kDistillation, kAlignment };

// A model of the rank's weights, a teacher of the same vocabulary, and what one learns.
struct Side {
  Side(const TinyModel& whole, const TinyModel& whole_teacher, const ParallelContext* ranks)
      : parallel(ranks),
        weights(PartOfWeights(whole.weights, ShardOn(ranks))),
        teacher_weights(PartOfWeights(whole_teacher.weights, ShardOn(ranks))),
        model(whole.transformer.config(),
              BindTensors(whole.transformer.config(), weights.layout, weights.buffer)),
        teacher(whole_teacher.transformer.config(),
                BindTensors(whole_teacher.transformer.config(), teacher_weights.layout,
                            teacher_weights.buffer)),
        gradients(*ParameterBuffer::Create(weights.layout, DType::kFloat64)),
        gradient_views(BindTensors(model.config(), weights.layout, gradients)) {}

  static TensorShard ShardOn(const ParallelContext* parallel) {
    return parallel == nullptr ? TensorShard{}
                               : TensorShard{.rank = parallel->coordinate().tensor,
                                             .ranks = parallel->shape().tensor};
  }
  std::unique_ptr<Objective> ObjectiveOf(Kind kind) const {
    switch (kind) {
      case Kind::kLanguageModel:
        return LanguageModelObjective(model, {}, parallel);
      case Kind::kDistillation:
        return DistillationObjective(model, teacher, {}, parallel);
      case Kind::kAlignment:
        return AlignmentObjective(model, parallel);
    }
    return nullptr;
  }

  const ParallelContext* parallel;
  ModelWeights weights, teacher_weights;
  Transformer model, teacher;
  ParameterBuffer gradients;
  ModelTensors gradient_views;
};

class MeshLayoutsTest : public testing::TestWithParam<Case> {
 protected:
  // The loss over the stream; gradients are added to the side's.
  absl::StatusOr<double> Run(Kind kind, const Side& side, const PackedStream& stream) {
    double loss = 0.0;
    RETURN_IF_ERROR(side.ObjectiveOf(kind)->Accumulate({.execution = context_,
                                                        .stream = stream,
                                                        .gradients = &side.gradient_views,
                                                        .loss_sum = TensorView::Of(&loss, {1})}));
    return loss;
  }

  void ExpectAsOnOneRank(Kind kind, const ModelConfig& config, const MeshShape& shape) {
    SCOPED_TRACE(testing::Message() << "data " << shape.data << ", context " << shape.context
                                    << ", tensor " << shape.tensor);
    ModelConfig teacher_config = TinyDenseConfig(kLayers + 1);
    teacher_config.vocabulary = config.vocabulary;
    const TinyModel model(config, DType::kFloat64, 41);
    const TinyModel teacher(teacher_config, DType::kFloat64, 42);
    const auto parallel =
        ParallelContext::Create(World(), shape, {}, HolderCounts(config, shape.tensor));
    ASSERT_TRUE(parallel.ok()) << parallel.status();
    const MeshCoordinate& at = parallel->coordinate();
    const Side whole(model, teacher, nullptr), part(model, teacher, &*parallel);

    double expected = 0.0;
    for (int rank = 0; rank < shape.data; ++rank) expected += *Run(kind, whole, StreamOf(rank));
    const auto loss = Run(kind, part, SliceOf(StreamOf(at.data), at.context, shape.context));
    ASSERT_TRUE(loss.ok()) << loss.status();
    ASSERT_TRUE(parallel->replicas().AllReduceSum(part.gradients.Flat()).ok());
    const ParameterLayout& layout = part.weights.layout;
    const ShardLayout everything(layout, 0, 1);
    ASSERT_TRUE(SumSharedGradients(context_, layout, everything, part.gradients, *parallel).ok());
    double losses[] = {*loss};
    ASSERT_TRUE(parallel->replicas().AllReduceSum(absl::Span<double>(losses)).ok());
    EXPECT_NEAR(losses[0], expected, kBound * expected);
    double worst = 0.0;
    for (const ParameterSpec& spec : layout.specs()) {
      const ParameterSpec& of_whole = *whole.weights.layout.Find(spec.name);
      const double error =
          RelativeError(part.gradients.View(spec), spec, whole.gradients.View(of_whole));
      EXPECT_LE(error, kBound) << spec.name;
      worst = std::max(worst, error);
    }
    if (World().rank() == 0) {
      std::cout << "data " << shape.data << ", context " << shape.context << ", tensor "
                << shape.tensor << ": largest relative error " << worst << "\n";
    }
  }

  void ExpectEveryMeshAsOnOneRank(Kind kind, const ModelConfig& config) {
    const int ranks = World().size();
    for (int context = 1; context <= ranks; ++context) {
      for (int tensor = 1; context * tensor <= ranks; ++tensor) {
        if (ranks % (context * tensor) != 0) continue;
        if (!CheckTensorShards(config, tensor).ok()) continue;
        ExpectAsOnOneRank(
            kind, config,
            {.data = ranks / (context * tensor), .context = context, .tensor = tensor});
      }
    }
  }

  ScopedThreadCount threads_{1};  // the work is too small to share
  TestContext context_;
};

INSTANTIATE_TEST_SUITE_P(Models, MeshLayoutsTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.name; });

TEST_P(MeshLayoutsTest, LossAndGradientsAreThoseOfOneRank) {
  ExpectEveryMeshAsOnOneRank(Kind::kLanguageModel, GetParam().config);
}

TEST_P(MeshLayoutsTest, DistillationsAreThoseOfOneRank) {
  ExpectEveryMeshAsOnOneRank(Kind::kDistillation, GetParam().config);
}

TEST_P(MeshLayoutsTest, AlignmentsAreThoseOfOneRank) {
  const auto config = CandidateConfig(GetParam().config);
  if (!config.ok()) GTEST_SKIP() << config.status().message();
  ExpectEveryMeshAsOnOneRank(Kind::kAlignment, *config);
}

}  // namespace
}  // namespace salamander
