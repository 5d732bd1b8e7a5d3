#include "model/flops.h"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"

namespace salamander {
namespace {

std::vector<Segment> Documents(const std::vector<int64_t>& lengths) {
  std::vector<Segment> segments;
  int64_t row = 0;
  for (const int64_t length : lengths) {
    segments.push_back({.query_begin = row, .query_count = length, .key_begin = row});
    row += length;
  }
  return segments;
}

TEST(FlopsTest, ProductsCountTwoPerWeightAndToken) {
  const ModelConfig config = TinyDenseConfig(3);
  const ModelFlops flops = ForwardFlops(config, Documents({5, 2}));
  const int64_t attention = 2 * 16 * 32 + 2 * 16 * 16;  // query and output, key and value
  EXPECT_EQ(flops.projections, 2.0 * 7 * 3 * attention);
  EXPECT_EQ(flops.mlp, 2.0 * 7 * 3 * 3 * 16 * config.intermediate);
  EXPECT_EQ(flops.head, 2.0 * 7 * 16 * 24);
  EXPECT_EQ(flops.lightning, 0);
}

TEST(FlopsTest, DenseAttentionCountsEachDocumentsCausalPairs) {
  const ModelConfig config = TinyDenseConfig(1);
  const double pairs = 15 + 3 + 1;
  EXPECT_EQ(ForwardFlops(config, Documents({5, 2, 1})).dense_attention, 4.0 * 32 * pairs);
  // Three queries behind seven cached keys see 8, 9 and 10 keys.
  const std::vector<Segment> cached = {{.query_count = 3, .first_position = 7}};
  EXPECT_EQ(ForwardFlops(config, cached).dense_attention, 4.0 * 32 * 27);
}

TEST(FlopsTest, SparseAttentionCountsTheKeysThatAFullListHolds) {
  ModelConfig config = TinyHybridConfig(1, {0});
  config.softmax.use_sparse = true;
  config.softmax.sparse = TinySparseConfig();
  config.softmax.sparse.dense_length = 0;
  const SparseConfig& sparse = config.softmax.sparse;
  double keys = 0;
  for (int64_t position = 0; position < 100; ++position) {
    // Block by block, newest first, until the list is full.
    int64_t read = position % sparse.block_size + 1;
    int64_t left = sparse.selected_blocks() - 1;
    for (int64_t block = position / sparse.block_size; block > 0 && left > 0; --block, --left)
      read += sparse.block_size;
    keys += static_cast<double>(read);
  }
  const ModelFlops flops = ForwardFlops(config, Documents({100}));
  EXPECT_EQ(flops.sparse_attention, 4.0 * 32 * keys);
  EXPECT_EQ(flops.dense_attention, 0);
  EXPECT_GT(flops.block_selection, 0);
}

TEST(FlopsTest, TrainingCountsTheWeightsThatTrain) {
  ModelConfig config = TinyHybridConfig(2, {0});
  config.softmax.use_sparse = true;
  config.softmax.sparse = TinySparseConfig();
  const ParameterLayout layout(config);
  const auto buffer = ParameterBuffer::Create(layout, DType::kFloat32);
  ASSERT_TRUE(buffer.ok());
  const ModelFlops forward = ForwardFlops(config, Documents({100}));
  const ModelTensors all = BindTensors(config, layout, *buffer);
  EXPECT_EQ(TrainingFlops(config, forward, all, 100),
            3 * (forward.total() - forward.block_selection) + forward.block_selection);
  const ModelTensors none =
      BindTrainable(config, layout, *buffer, [](const ParameterSpec&) { return false; });
  EXPECT_EQ(TrainingFlops(config, forward, all, 100) - TrainingFlops(config, forward, none, 100),
            forward.projections + forward.mlp + forward.head);
}

TEST(FlopsTest, TrainingCountsTheWholeModelOnEveryTensorRank) {
  const ModelConfig config = TinyHybridConfig(2, {0});
  const ModelFlops forward = ForwardFlops(config, Documents({100}));
  const auto counted = [&](const ParameterLayout& layout) {
    const ParameterBuffer buffer = ParameterBuffer::Planned(layout, DType::kFloat32);
    return TrainingFlops(config, forward, BindTensors(config, layout, buffer), 100);
  };
  EXPECT_EQ(counted(ParameterLayout(config, {.rank = 1, .ranks = 4})),
            counted(ParameterLayout(config)));
}

TEST(FlopsTest, LightningGrowsWithTokensAlone) {
  const ModelConfig config = TinyHybridConfig(2, {0});
  const double one_document = ForwardFlops(config, Documents({64})).lightning;
  EXPECT_EQ(one_document, 64.0 * 4 * (4 * 8 * 8 + 128 * 8));
  EXPECT_EQ(ForwardFlops(config, Documents({60, 4})).lightning, one_document);
}

}  // namespace
}  // namespace salamander
