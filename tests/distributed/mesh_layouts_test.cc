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

class MeshLayoutsTest : public testing::TestWithParam<Case> {
 protected:
  absl::StatusOr<double> Run(const Objective& objective, const PackedStream& stream,
                             const ModelTensors& gradients) {
    double loss = 0.0;
    RETURN_IF_ERROR(objective.Accumulate({.execution = context_,
                                          .stream = stream,
                                          .gradients = &gradients,
                                          .loss_sum = TensorView::Of(&loss, {1})}));
    return loss;
  }

  void ExpectAsOnOneRank(const MeshShape& shape) {
    SCOPED_TRACE(testing::Message() << "data " << shape.data << ", context " << shape.context
                                    << ", tensor " << shape.tensor);
    const ModelConfig& config = GetParam().config;
    const TinyModel whole(config, DType::kFloat64, 41);
    const auto parallel =
        ParallelContext::Create(World(), shape, {}, HolderCounts(config, shape.tensor));
    ASSERT_TRUE(parallel.ok()) << parallel.status();
    const MeshCoordinate& at = parallel->coordinate();
    const ModelWeights part =
        PartOfWeights(whole.weights, {.rank = at.tensor, .ranks = shape.tensor});
    const Transformer model(config, BindTensors(config, part.layout, part.buffer));

    const auto expected_gradients = ParameterBuffer::Create(whole.weights.layout, DType::kFloat64);
    const ModelTensors expected_views =
        BindTensors(config, whole.weights.layout, *expected_gradients);
    double expected = 0.0;
    for (int rank = 0; rank < shape.data; ++rank) {
      expected += *Run(*LanguageModelObjective(whole.transformer), StreamOf(rank), expected_views);
    }

    const auto gradients = ParameterBuffer::Create(part.layout, DType::kFloat64);
    const auto loss = Run(*LanguageModelObjective(model, {}, &*parallel),
                          SliceOf(StreamOf(at.data), at.context, shape.context),
                          BindTensors(config, part.layout, *gradients));
    ASSERT_TRUE(loss.ok()) << loss.status();
    ASSERT_TRUE(parallel->replicas().AllReduceSum(gradients->Flat()).ok());
    const ShardLayout everything(part.layout, 0, 1);
    ASSERT_TRUE(SumSharedGradients(context_, part.layout, everything, *gradients, *parallel).ok());
    double losses[] = {*loss};
    ASSERT_TRUE(parallel->replicas().AllReduceSum(absl::Span<double>(losses)).ok());
    EXPECT_NEAR(losses[0], expected, kBound * expected);
    double worst = 0.0;
    for (const ParameterSpec& spec : part.layout.specs()) {
      const ParameterSpec& of_whole = *whole.weights.layout.Find(spec.name);
      const double error =
          RelativeError(gradients->View(spec), spec, expected_gradients->View(of_whole));
      EXPECT_LE(error, kBound) << spec.name;
      worst = std::max(worst, error);
    }
    if (World().rank() == 0) {
      std::cout << "data " << shape.data << ", context " << shape.context << ", tensor "
                << shape.tensor << ": largest relative error " << worst << "\n";
    }
  }

  ScopedThreadCount threads_{1};  // the work is too small to share
  TestContext context_;
};

INSTANTIATE_TEST_SUITE_P(Models, MeshLayoutsTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.name; });

TEST_P(MeshLayoutsTest, LossAndGradientsAreThoseOfOneRank) {
  const int ranks = World().size();
  for (int context = 1; context <= ranks; ++context) {
    for (int tensor = 1; context * tensor <= ranks; ++tensor) {
      if (ranks % (context * tensor) != 0) continue;
      if (!CheckTensorShards(GetParam().config, tensor).ok()) continue;
      ExpectAsOnOneRank({.data = ranks / (context * tensor), .context = context, .tensor = tensor});
    }
  }
}

}  // namespace
}  // namespace salamander
